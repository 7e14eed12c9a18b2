"""The heads that policies name, of which the recently used ones are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from roadwork_serve.engines.head_files import HeadFiles, TimedLoader, read_head_files

H = TypeVar("H")
_KEPT = 8


class HeadCache(Generic[H]):
    """Loads heads below one folder."""

    def __init__(self, folder: Path, parse: Callable[[HeadFiles, str], H], fit: Callable[[H, str], H]) -> None:
        """Remember how to make a head.

        Args:
            folder: Folder of the heads.
            parse: Makes a head from its files and name.
            fit: Returns a head as its engine applies it; raises ModelError for one of another backbone.
        """
        self._fit, self._heads = fit, dict[str, H]()
        self._loader = TimedLoader(lambda name: parse(read_head_files(folder, name), name))

    def load(self, name: str) -> H:
        """Return a head.

        Raises:
            ModelError: There is no such head for this backbone below the folder, or reading it takes too long.
        """
        head = self._heads.pop(name, None) or self._fit(self._loader.load(name), name)
        self._heads[name] = head
        for old in list(self._heads)[:-_KEPT]:
            del self._heads[old]
        return head
