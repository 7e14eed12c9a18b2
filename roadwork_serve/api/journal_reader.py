"""The reading side of the journal, in a thread beside the one that writes."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from roadwork_serve.api.policy_preview import preview_policy
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import BadRequest, NotFound
from roadwork_serve.journal.active_learning import ActiveLearningScore, most_informative
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.paging import Position
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.journal.search import search
from roadwork_serve.journal.store import SeveralPredictions, Store
from roadwork_serve.profiles.task import Task, default_task
from roadwork_serve.schema import UNCLEAR, HumanLabel, JournalEntry, JournalPage, PolicyPreview

CANDIDATES = 1000  # latest unlabeled entries, to choose the informative ones from

T = TypeVar("T")


class JournalReader:
    """Implements `JournalQueries` over a store.

    Args:
        open_store: Opens the store; called by the first query.
        task: The task whose labels people assign; active road work by default.
    """

    def __init__(self, open_store: Callable[[], Store], task: Task | None = None) -> None:
        self._task = task or default_task()
        self._open_store = open_store
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")

    async def recent(self, limit: int, where: Filter, cursor: str | None) -> JournalPage:
        """See `JournalQueries`."""
        after = None if cursor is None else Position.from_cursor(cursor)
        self._check_label(where.label)

        def query(store: Store) -> JournalPage:
            page = search(store, where, limit, after)
            next_cursor = None if page.next is None else page.next.cursor
            return JournalPage(entries=[_entry(row) for row in page.rows], next_cursor=next_cursor)

        return await self._query(query)

    async def informative(self, limit: int, where: Filter, decision_threshold: float) -> JournalPage:
        """See `JournalQueries`."""
        self._check_label(where.label)

        def query(store: Store) -> JournalPage:
            rows = search(store, replace(where, labeled=False), CANDIDATES).rows
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
        assigned = None if label.label == UNCLEAR else label.label
        self._check_label(assigned, f" or '{UNCLEAR}'")

        def query(store: Store) -> JournalEntry:
            store.annotate([(answer_id, Annotation(assigned, author, time.time(), label.note))])
            return _entry(store.get(answer_id))

        return await self._query(query)

    async def withdraw_label(self, answer_id: str, author: str) -> JournalEntry:
        """See `JournalQueries`."""

        def query(store: Store) -> JournalEntry:
            if not store.withdraw_label(answer_id, author):
                raise NotFound(f"the latest label of {answer_id} is not yours, or it has none; set another one")
            return _entry(store.get(answer_id))

        return await self._query(query)

    async def preview(self, current: Policy, proposed: Policy, last: int) -> PolicyPreview:
        """See `JournalQueries`."""
        return await self._query(
            lambda store: preview_policy(
                store.find(limit=last, newest_first=True), current, proposed, self._task.labels
            )
        )

    def close(self) -> None:
        """Close the database."""
        self._thread.shutdown()
        if self._store is not None:
            self._store.close()

    def _check_label(self, label: str | None, alternative: str = "") -> None:
        """Raise BadRequest for a label that the task does not have."""
        if label is not None and label not in self._task.labels:
            known = (", " if alternative else " or ").join(f"'{each}'" for each in self._task.labels)
            raise BadRequest(f"label is '{label}': Input should be {known}{alternative}")

    async def _query(self, query: Callable[[Store], T]) -> T:
        def run() -> T:
            if self._store is None:
                self._store = self._open_store()
            try:
                return query(self._store)
            except SeveralPredictions:
                raise
            except BadRequest as error:  # the store raises it for an unknown id
                raise NotFound(str(error)) from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


def _entry(row: JournalRow, score: ActiveLearningScore | None = None) -> JournalEntry:
    prediction, annotation = row.prediction, row.annotation
    return JournalEntry(
        id=prediction.id,
        created_at=datetime.fromtimestamp(prediction.created_at_s, UTC).isoformat(timespec="milliseconds"),
        filename=prediction.filename,
        verdict=prediction.verdict,
        human_label=None if annotation is None else annotation.label or UNCLEAR,
        media_available=row.media_available,
        informativeness=None if score is None else score.value,
        reasons={} if score is None else dict(score.reasons),
    )
