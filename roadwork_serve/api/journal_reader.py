"""What the journal holds, for people to look at: read and labelled in a thread beside the one that writes."""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from roadwork_serve.api.policy_preview import preview_policy
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import BadRequest, NotFound, RoadworkError
from roadwork_serve.journal.active_learning import ActiveLearningScore, most_informative
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.journal.store import LABELS, Store
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview

LOOKED_AT = 1000  # of the latest answers without a label, for hard ones

T = TypeVar("T")


class JournalReader:
    """The journal's reading side.

    opened: opens the store, when somebody asks first. Errors of the tree come back as values, for they are raised on
    the other side of a handle, where Serve would wrap them.
    """

    def __init__(self, opened: Callable[[], Store]) -> None:
        self._opened = opened
        self._store: Store | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="archive")

    async def recent(self, limit: int) -> JournalPage | RoadworkError:
        """The latest answers, the newest first."""
        return await self._read(lambda store: _page(store.find(limit=limit, newest_first=True)))

    async def hard(self, limit: int, decision_threshold: float) -> JournalPage | RoadworkError:
        """Of the latest that nobody has labelled those that teach most, the hardest first."""

        def read(store: Store) -> JournalPage:
            cases = store.find(Filter(marked=False), limit=LOOKED_AT, newest_first=True)
            found = most_informative(cases, limit, decision_threshold=decision_threshold)
            return JournalPage(answers=[_answer(each.case, each.score) for each in found])

        return await self._read(read)

    async def media(self, name: str) -> bytes | RoadworkError:
        """The encoded file of an answer, by its id."""

        def read(store: Store) -> bytes:
            data = store.media(store.case(name))
            if data is None:
                raise NotFound(
                    f"the file of {name} is not kept; set journal.media_cap_gib in the profile to keep files"
                )
            return data

        return await self._read(read)

    async def say(self, name: str, said: HumanLabel, by: str) -> JournalEntry | RoadworkError:
        """Write down what a person says of an answer, by its id. The last word counts."""

        def write(store: Store) -> JournalEntry:
            store.mark([(name, Annotation(LABELS[said.label], by, time.time(), said.note))])
            return _answer(store.case(name))

        return await self._read(write)

    async def preview(self, now: dict[str, Any], then: dict[str, Any], last: int) -> PolicyPreview | RoadworkError:
        """What a policy would have made of the latest answers, beside the one in force."""

        def read(store: Store) -> PolicyPreview:
            cases = store.find(limit=last, newest_first=True)
            return preview_policy(cases, Policy.from_mapping(now), Policy.from_mapping(then))

        return await self._read(read)

    def close(self) -> None:
        """Let go of the database."""
        self._reader.shutdown()
        if self._store is not None:
            self._store.close()

    async def _read(self, ask: Callable[[Store], T]) -> T | RoadworkError:
        def run() -> T | RoadworkError:
            try:
                if self._store is None:
                    self._store = self._opened()
                return ask(self._store)
            except BadRequest as error:  # so the store tells a name that it does not know
                return NotFound(str(error))
            except RoadworkError as error:
                return error

        return await asyncio.get_running_loop().run_in_executor(self._reader, run)


def _page(cases: Iterable[JournalRow]) -> JournalPage:
    return JournalPage(answers=[_answer(case) for case in cases])


def _answer(case: JournalRow, hardness: ActiveLearningScore | None = None) -> JournalEntry:
    entry, mark = case.entry, case.mark
    return JournalEntry(
        id=entry.id,
        at=datetime.fromtimestamp(entry.at_s, UTC).isoformat(timespec="milliseconds"),
        verdict=entry.verdict,
        said=None if mark is None else mark.label or "unclear",
        kept=case.kept,
        hardness=None if hardness is None else hardness.value,
        why={} if hardness is None else dict(hardness.reasons),
    )
