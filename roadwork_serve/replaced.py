"""An attribute of another library, replaced for a while where the library offers no setting."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module or class until the block ends. Every thread sees it."""
    before = vars(owner)[name]  # getattr would take a static method out of its wrapper
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
