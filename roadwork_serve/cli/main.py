"""`roadwork`: the command line. Each command imports what it needs when it runs, so that `--help` is instant."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from roadwork_serve.cli.calibrate import calibrate
from roadwork_serve.cli.classify import classify
from roadwork_serve.cli.compare import compare
from roadwork_serve.cli.console import console
from roadwork_serve.cli.demo import demo
from roadwork_serve.cli.doctor import doctor
from roadwork_serve.cli.drive import drive
from roadwork_serve.cli.evaluate import evaluate
from roadwork_serve.cli.export import export
from roadwork_serve.cli.journal import journal
from roadwork_serve.cli.keys import keys
from roadwork_serve.cli.minis import minis
from roadwork_serve.cli.monitor import monitor
from roadwork_serve.cli.plan import plan
from roadwork_serve.cli.policy import policy
from roadwork_serve.cli.quantize import quantize
from roadwork_serve.cli.render import render
from roadwork_serve.cli.retrain import retrain
from roadwork_serve.cli.score import score
from roadwork_serve.cli.serve import serve
from roadwork_serve.cli.synthesize import synthesize
from roadwork_serve.cli.train_head import train_head
from roadwork_serve.cli.tune import tune
from roadwork_serve.cli.watch import watch
from roadwork_serve.errors import RoadworkError
from roadwork_serve.terminal import echo, echo_error

# The commands by what people do, the common ones first: this is the order of `roadwork --help`.
_PANELS: dict[str, dict[str, Any]] = {
    "Run": {"serve": serve, "demo": demo, "doctor": doctor, "console": console, "plan": plan},
    "Classify": {"classify": classify, "score": score, "drive": drive, "watch": watch, "evaluate": evaluate},
    "Label and learn": {
        "journal": journal,
        "retrain": retrain,
        "train-head": train_head,
        "calibrate": calibrate,
        "tune": tune,
        "compare": compare,
        "export": export,
        "quantize": quantize,
        "render": render,
        "synthesize": synthesize,
        "minis": minis,
    },
    "Operate": {"policy": policy, "keys": keys, "monitor": monitor},
}
_ORDER = [name for commands in _PANELS.values() for name in commands]


class _Group(TyperGroup):
    """The top level: commands in the order of `_PANELS`, and errors of the tree as one line without a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RoadworkError as error:
            echo_error(f"{error.title}: {error}")
            raise typer.Exit(2) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False)
for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        echo(version("roadwork-serve"))
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Detect active road work in photos and clips: run the server, classify files, and improve the models."""
