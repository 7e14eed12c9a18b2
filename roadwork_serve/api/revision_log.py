"""A log of numbered revisions that all replicas share, as the policy store needs it."""

from typing import Protocol


class RevisionLog(Protocol):
    """Pages that are numbered from 1, never changed, and thrown away from the front."""

    async def numbers(self) -> list[int]:
        """Of the pages that are kept, rising."""
        ...

    async def read(self, number: int) -> bytes | None:
        """A page, None where there is none."""
        ...

    async def add(self, number: int, page: bytes) -> bool:
        """Put a page there. False when somebody else was first: then theirs stays."""
        ...

    async def drop(self, number: int) -> None:
        """Throw a page away."""
        ...


class InMemoryRevisionLog:
    """For one process without Ray."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    async def numbers(self) -> list[int]:
        """See `RevisionLog`."""
        return sorted(self.pages)

    async def read(self, number: int) -> bytes | None:
        """See `RevisionLog`."""
        return self.pages.get(number)

    async def add(self, number: int, page: bytes) -> bool:
        """See `RevisionLog`."""
        return self.pages.setdefault(number, page) is page

    async def drop(self, number: int) -> None:
        """See `RevisionLog`."""
        self.pages.pop(number, None)
