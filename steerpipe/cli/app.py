"""`steer`: Typer in front, the real Hydra behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import again, report, runs, tasks
from .failure import Stopped, explain, resume_line, say
from .hydra import complete, forward, groups

if TYPE_CHECKING:
    from omegaconf import DictConfig

QUIET = "STEER_QUIET"  # steerpipe.progress reads it; importing that here would cost `steer --help` a part of its time

app = typer.Typer(
    name="steer",
    help="Steer single-cell foundation models with sparse autoencoder features.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

OWN = ("feature", "features")
"""Commands with arguments of their own, below."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it; typer returns it too."""


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
        plan: Annotated[bool, typer.Option("--plan", help="Print what extraction and the nulls would cost, and stop.")] = False,
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help="Warnings and the run folder alone; no progress bars.")
        ] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Everything that the stages have to say.")] = False,
    ) -> None:
        if quiet:
            os.environ[QUIET] = "1"
        loud = [("handlers.console", "WARNING")] * quiet + [("loggers.steerpipe", "DEBUG")] * verbose
        levels = [f"hydra.job_logging.{where}.level={level}" for where, level in loud]
        planned = ["extract.plan=true", f"extract.plan_of={task.__name__}"] if plan else []
        words = [*(overrides or []), *planned, *levels]
        forward(tasks.TASKS["extract"] if plan else task, words, _flags(multirun, cfg, resolve, info, config_dir))


@app.command("feature", help=tasks.TASKS["feature"].__doc__)
def feature(
    number: Annotated[int, typer.Argument(metavar="ID", help="The feature's number.")],
    overrides: Overrides = None,
    multirun: Multirun = False,
    cfg: Cfg = None,
    resolve: Resolve = False,
    config_dir: ConfigDir = None,
) -> None:
    """Show one feature."""
    forward(
        tasks.TASKS["feature"], [*(overrides or []), f"feature.id={number}"], _flags(multirun, cfg, resolve, None, config_dir)
    )


@app.command("features", help=tasks.TASKS["features"].__doc__)
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
    forward(tasks.TASKS["features"], [*(overrides or []), *wanted], _flags(multirun, cfg, resolve, None, config_dir))


for _name, _task in tasks.TASKS.items():
    if _name not in OWN:
        add(_task)
app.command("runs")(runs.list_runs)
app.command("show")(runs.show)
app.command("diff")(runs.diff)
app.command("rerun")(again.rerun)
app.command("clean")(again.clean)
app.command("validate")(again.validate)
app.command("sweep-table")(runs.sweep_table)
app.command("report")(report.report)


def main(words: list[str] | None = None) -> None:
    """Entry point of `steer`: exits 1 for what the user can repair, 2 for an unreadable command line, 130 for Ctrl-C."""
    words = sys.argv[1:] if words is None else words
    try:
        result: Any = app(words, prog_name="steer", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (Exception, Stopped) as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[union-attr]
            raise SystemExit(2) from None
        if type(error).__name__ == "Abort":  # Ctrl-C as older versions of typer pass it on, or at a question
            say(resume_line(words))
            raise SystemExit(INTERRUPTED) from None
        line = explain(error)
        if line is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        say(str(line))
        raise SystemExit(line.code) from None
    if code == INTERRUPTED:
        say(resume_line(words))
    raise SystemExit(code)
