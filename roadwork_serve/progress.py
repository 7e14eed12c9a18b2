"""A progress bar on stderr, so that stdout can be piped."""

from typing import TYPE_CHECKING

from roadwork_serve.terminal import console

if TYPE_CHECKING:
    from rich.progress import Progress


def progress() -> "Progress":
    """Return a progress bar that disappears at the end, and is hidden if stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    output = console(stderr=True)
    return Progress(*columns, console=output, transient=True, disable=not output.is_terminal)
