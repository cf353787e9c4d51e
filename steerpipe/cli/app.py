"""`steer`: Typer in front, the real Hydra behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

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


def add(task: Callable[[DictConfig], None]) -> None:
    """Make a stage a command that takes Hydra overrides."""
    lines = (f"{group}=[cyan]{'|'.join(choices)}[/cyan]" for group, choices in groups().items())
    epilog = "[bold]Config groups[/bold]\n\n" + "\n\n".join(lines)

    @app.command(task.__name__.replace("_", "-"), help=task.__doc__, epilog=epilog)
    def command(
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hydra overrides.", autocompletion=complete)
        ] = None,
        multirun: Annotated[bool, _option("--multirun", "-m", help="One job per combination of comma lists.")] = False,
        cfg: Annotated[Literal["job", "hydra", "all"] | None, _option("--cfg", "-c", help="Print the config and stop.")] = None,
        resolve: Annotated[bool, _option("--resolve", help="With --cfg: resolve interpolations.")] = False,
        info: Annotated[
            str | None, _option("--info", "-i", help="all|config|defaults|defaults-tree|plugins|searchpath")
        ] = None,
        config_dir: Annotated[Path | None, _option("--config-dir", help="Your own config folder, searched as well.")] = None,
        plan: Annotated[bool, typer.Option("--plan", help="Print what extraction would cost, and stop.")] = False,
    ) -> None:
        folder = None if config_dir is None else str(config_dir.resolve())
        flags = {"multirun": multirun, "cfg": cfg, "resolve": resolve, "info": info, "config-dir": folder}
        planned = ["extract.plan=true"] if plan else []
        forward(tasks.extract if plan else task, [*(overrides or []), *planned], flags)


for _task in tasks.TASKS:
    add(_task)
app.command("runs")(runs.list_runs)
app.command("show")(runs.show)


def main() -> None:
    """Entry point of `steer`."""
    app()
