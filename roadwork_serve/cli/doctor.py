"""`roadwork doctor`: whether a server can run here, what would run, and why."""

from typing import Annotated

import typer

from roadwork_serve.cli.options import StateFolder
from roadwork_serve.terminal import console, echo_json, foreign

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}


def doctor(
    profile: Annotated[str, typer.Option(help="Profile to check for: a name, a path, or auto.")] = "auto",
    host: Annotated[str, typer.Option(help="Address that the server would listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that it would listen on.")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for reports of problems.")] = False,
    state: StateFolder = None,
) -> None:
    """Check whether a server can run on this machine, and show what would run and why. Starts nothing.

    Checks Python, the packages, cores, memory, GPUs and their driver, the port, and the folders that a server writes
    to. The exit code is 2 if there is a problem.
    """
    import json
    from dataclasses import asdict

    from rich.table import Table

    from roadwork_serve.doctor.examination import examine
    from roadwork_serve.state_folder import state_folder

    findings = examine(state_folder() if state is None else state.absolute(), profile, host, port)
    if as_json:
        echo_json(json.dumps([asdict(each) for each in findings], indent=1))
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for each in findings:
            table.add_row(_MARKS[each.level], foreign(each.topic), foreign(each.text))
        console().print(table)
    if any(each.level == "problem" for each in findings):
        raise typer.Exit(2)
