"""Output on the terminal. Commands write only through this module, which makes text of others safe."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from roadwork_serve.printable import printable, printable_json, printable_lines

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str = "", *, err: bool = False, color: str | None = None) -> None:
    """Print lines to stdout or stderr."""
    import typer

    typer.secho(printable_lines(text), fg=color, err=err)


def echo_error(text: str) -> None:
    """Print an error to stderr, on one line."""
    echo(printable(text), err=True, color="red")


def echo_json(text: str) -> None:
    """Print JSON to stdout."""
    import typer

    typer.echo(printable_json(text))


def foreign(text: str) -> str:
    """Return a text of others for rich: on one line, safe, and not read as markup."""
    from rich.markup import escape

    return escape(printable(text))


def console(*, stderr: bool = False) -> "Console":
    """Return a console for tables and colors, whose text is safe whatever it shows."""
    from rich.console import Console
    from rich.segment import Segment

    class Terminal(Console):
        def render(self, *args: Any, **settings: Any) -> Iterable[Segment]:
            for text, style, control in super().render(*args, **settings):
                yield Segment(text if control else printable_lines(text), style, control)

    return Terminal(stderr=stderr)
