"""The reading side of the journal, in a thread beside the one that writes."""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

from roadwork_serve.api.policy_preview import preview_policy
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import BadRequest, NotFound
from roadwork_serve.journal.active_learning import ActiveLearningScore, most_informative
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.journal.store import LABELS, Store
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview

CANDIDATES = 1000  # latest unlabeled entries, to choose the informative ones from

T = TypeVar("T")


class JournalReader:
    """Implements `JournalQueries` over a store.

    Args:
        open_store: Opens the store; called by the first query.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")

    async def recent(self, limit: int) -> JournalPage:
        """See `JournalQueries`."""
        return await self._query(lambda store: _page(store.find(limit=limit, newest_first=True)))

    async def informative(self, limit: int, decision_threshold: float) -> JournalPage:
        """See `JournalQueries`."""

        def query(store: Store) -> JournalPage:
            rows = store.find(Filter(labeled=False), limit=CANDIDATES, newest_first=True)
            ranked = most_informative(rows, limit, decision_threshold=decision_threshold)
            return JournalPage(entries=[_entry(each.row, each.score) for each in ranked])

        return await self._query(query)

    async def media(self, answer_id: str) -> bytes:
        """See `JournalQueries`."""

        def query(store: Store) -> bytes:
            data = store.read_media(store.get(answer_id))
            if data is None:
                raise NotFound(
                    f"the file of {answer_id} is not stored; set journal.max_media_gib in the profile to store files"
                )
            return data

        return await self._query(query)

    async def label(self, answer_id: str, label: HumanLabel, author: str) -> JournalEntry:
        """See `JournalQueries`."""

        def query(store: Store) -> JournalEntry:
            store.annotate([(answer_id, Annotation(LABELS[label.label], author, time.time(), label.note))])
            return _entry(store.get(answer_id))

        return await self._query(query)

    async def preview(self, current: Policy, proposed: Policy, last: int) -> PolicyPreview:
        """See `JournalQueries`."""
        return await self._query(
            lambda store: preview_policy(store.find(limit=last, newest_first=True), current, proposed)
        )

    def close(self) -> None:
        """Close the database."""
        self._thread.shutdown()
        if self._store is not None:
            self._store.close()

    async def _query(self, query: Callable[[Store], T]) -> T:
        def run() -> T:
            if self._store is None:
                self._store = self._open_store()
            try:
                return query(self._store)
            except BadRequest as error:  # the store raises it for an unknown id
                raise NotFound(str(error)) from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


def _page(rows: Iterable[JournalRow]) -> JournalPage:
    return JournalPage(entries=[_entry(row) for row in rows])


def _entry(row: JournalRow, score: ActiveLearningScore | None = None) -> JournalEntry:
    prediction, annotation = row.prediction, row.annotation
    return JournalEntry(
        id=prediction.id,
        created_at=datetime.fromtimestamp(prediction.created_at_s, UTC).isoformat(timespec="milliseconds"),
        verdict=prediction.verdict,
        human_label=None if annotation is None else annotation.label or "unclear",
        media_available=row.media_available,
        informativeness=None if score is None else score.value,
        reasons={} if score is None else dict(score.reasons),
    )
