"""A log of numbered records that all replicas share; the policy store keeps its revisions there."""

from typing import Protocol


class RevisionLog(Protocol):
    """Records that are numbered from 1, never change, and are removed from the front."""

    async def numbers(self) -> list[int]:
        """Return the numbers of the records, ascending."""
        ...

    async def read(self, number: int) -> bytes | None:
        """Return a record, or None if there is none with this number."""
        ...

    async def add(self, number: int, record: bytes) -> bool:
        """Add a record. Return False if another one has this number; then nothing changes."""
        ...

    async def drop(self, number: int) -> None:
        """Remove a record."""
        ...


class InMemoryRevisionLog:
    """A log for a single process without Ray."""

    def __init__(self) -> None:
        self.records: dict[int, bytes] = {}

    async def numbers(self) -> list[int]:
        """See `RevisionLog`."""
        return sorted(self.records)

    async def read(self, number: int) -> bytes | None:
        """See `RevisionLog`."""
        return self.records.get(number)

    async def add(self, number: int, record: bytes) -> bool:
        """See `RevisionLog`."""
        return self.records.setdefault(number, record) is record

    async def drop(self, number: int) -> None:
        """See `RevisionLog`."""
        self.records.pop(number, None)
