"""`steer`: Typer in front, the real Hydra behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from omegaconf import DictConfig

from . import runs, tasks
from .hydra import complete, forward, groups

app = typer.Typer(
    name="steer",
    help="Steer single-cell foundation models with sparse autoencoder features.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _option(*names: str, help: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, rich_help_panel="Hydra", help=help)
    return option


Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hydra overrides.", autocompletion=complete)]
Multirun = Annotated[bool, _option("--multirun", "-m", help="One job per combination of comma lists.")]
Cfg = Annotated[Literal["job", "hydra", "all"] | None, _option("--cfg", "-c", help="Print the config and stop.")]
Resolve = Annotated[bool, _option("--resolve", help="With --cfg: resolve interpolations.")]
Info = Annotated[str | None, _option("--info", "-i", help="all|config|defaults|defaults-tree|plugins|searchpath")]
ConfigDir = Annotated[Path | None, _option("--config-dir", help="Your own config folder, searched as well.")]


def _flags(multirun: bool, cfg: str | None, resolve: bool, info: str | None, config_dir: Path | None) -> dict[str, Any]:
    folder = None if config_dir is None else str(config_dir.resolve())
    return {"multirun": multirun, "cfg": cfg, "resolve": resolve, "info": info, "config-dir": folder}


def add(task: Callable[[DictConfig], None]) -> None:
    """Make a stage a command that takes Hydra overrides."""
    lines = (f"{group}=[cyan]{'|'.join(choices)}[/cyan]" for group, choices in groups().items())
    epilog = "[bold]Config groups[/bold]\n\n" + "\n\n".join(lines)

    @app.command(task.__name__.replace("_", "-"), help=task.__doc__, epilog=epilog)
    def command(
        overrides: Overrides = None,
        multirun: Multirun = False,
        cfg: Cfg = None,
        resolve: Resolve = False,
        info: Info = None,
        config_dir: ConfigDir = None,
        plan: Annotated[bool, typer.Option("--plan", help="Print what extraction would cost, and stop.")] = False,
    ) -> None:
        planned = ["extract.plan=true"] if plan else []
        forward(
            tasks.extract if plan else task, [*(overrides or []), *planned], _flags(multirun, cfg, resolve, info, config_dir)
        )


@app.command("feature", help=tasks.feature.__doc__)
def feature(
    number: Annotated[int, typer.Argument(metavar="ID", help="The feature's number.")],
    overrides: Overrides = None,
    multirun: Multirun = False,
    cfg: Cfg = None,
    resolve: Resolve = False,
    config_dir: ConfigDir = None,
) -> None:
    """Show one feature."""
    forward(tasks.feature, [*(overrides or []), f"feature.id={number}"], _flags(multirun, cfg, resolve, None, config_dir))


@app.command("features", help=tasks.features.__doc__)
def features(
    overrides: Overrides = None,
    find: Annotated[str | None, typer.Option(help="Text in labels, terms, genes or cell types.")] = None,
    multirun: Multirun = False,
    cfg: Cfg = None,
    resolve: Resolve = False,
    config_dir: ConfigDir = None,
) -> None:
    """List or search the features."""
    escaped = None if find is None else find.replace("\\", "\\\\").replace("'", "\\'")
    wanted = [] if escaped is None else [f"feature.find='{escaped}'"]
    forward(tasks.features, [*(overrides or []), *wanted], _flags(multirun, cfg, resolve, None, config_dir))


for _task in tasks.TASKS:
    add(_task)
app.command("runs")(runs.list_runs)
app.command("show")(runs.show)


def main() -> None:
    """Entry point of `steer`."""
    app()
