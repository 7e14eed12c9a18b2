"""Queries of the journal that the HTTP API needs."""

from typing import Protocol

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.journal.filter import Filter
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview


class JournalQueries(Protocol):
    """The journal as people read and label it. Every method raises JournalDown while the journal is unavailable."""

    async def recent(self, limit: int, where: Filter, cursor: str | None) -> JournalPage:
        """Return the latest selected entries, the newest first.

        Args:
            limit: Number of entries.
            where: Selects entries.
            cursor: The cursor of the page; None for the first. Raises BadRequest for any other text.
        """
        ...

    async def informative(self, limit: int, where: Filter, decision_threshold: float) -> JournalPage:
        """Return the most informative of the latest selected entries that are unlabeled, the best first.

        Args:
            limit: Number of entries.
            where: Selects entries.
            decision_threshold: Threshold of the active policy; entries close to it are more informative.
        """
        ...

    async def media(self, answer_id: str) -> bytes:
        """Return the encoded file of an entry. Raises NotFound if it is unknown or not stored."""
        ...

    async def label(self, answer_id: str, label: HumanLabel, author: str) -> JournalEntry:
        """Store a human label and return the entry. The latest label counts. Raises NotFound."""
        ...

    async def withdraw_label(self, answer_id: str, author: str) -> JournalEntry:
        """Delete the author's label and return the entry. Raises NotFound unless the latest label is the author's."""
        ...

    async def preview(self, current: Policy, proposed: Policy, last: int) -> PolicyPreview:
        """Return a comparison of two policies on the latest entries."""
        ...
