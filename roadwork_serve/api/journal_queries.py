"""Queries of the journal that the HTTP API needs."""

from typing import Protocol

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview


class JournalQueries(Protocol):
    """The journal as people read and label it. Every method raises JournalDown while the journal is unavailable."""

    async def recent(self, limit: int) -> JournalPage:
        """Return the latest entries, the newest first."""
        ...

    async def informative(self, limit: int, decision_threshold: float) -> JournalPage:
        """Return the most informative of the latest unlabeled entries, the best first.

        Args:
            limit: Number of entries.
            decision_threshold: Threshold of the active policy; entries close to it are more informative.
        """
        ...

    async def media(self, answer_id: str) -> bytes:
        """Return the encoded file of an entry. Raises NotFound if it is unknown or not stored."""
        ...

    async def label(self, answer_id: str, label: HumanLabel, author: str) -> JournalEntry:
        """Store a human label and return the entry. The latest label counts. Raises NotFound."""
        ...

    async def preview(self, current: Policy, proposed: Policy, last: int) -> PolicyPreview:
        """Return a comparison of two policies on the latest entries."""
        ...
