"""Work-conserving batching: the moment a slot of a stage is free, everything that waits goes.

The stage pulls, no timer holds a batch back, and none is frozen while the stage is busy. The idea is
that of the queue in huggingface/text-embeddings-inference, with deadlines for its order.
"""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush

from roadwork_serve.cascade.opinion import Item, Opinion, StageClient
from roadwork_serve.errors import DeadlineExceeded, Overloaded, StageFailed


@dataclass(frozen=True, slots=True)
class Answer:
    """An opinion and what it took to get it.

    queue_ms: from submission until a slot took the item.
    hop_ms: the client's round trip less what the stage reports as its own time.
    batch_size: items in the call.
    """

    opinion: Opinion
    queue_ms: float
    hop_ms: float
    batch_size: int


@dataclass(slots=True, eq=False)
class _Entry:
    item: Item
    since: float
    answer: asyncio.Future[Answer]
    call: "_Call | None" = None  # None while it waits


@dataclass(slots=True, eq=False)
class _Call:
    """A batch in flight. waiters: how many of its entries somebody still waits for."""

    entries: list[_Entry]
    task: asyncio.Task[None]
    waiters: int
    stopped: bool = False

    def stop(self) -> None:
        """Cancel, once: a client that winds down in good order is not disturbed again."""
        if not self.stopped:
            self.stopped = True
            self.task.cancel()

    def fail(self, message: str, cause: BaseException | None = None) -> None:
        for entry in self.entries:
            if not entry.answer.done():
                error = StageFailed(message)
                error.__cause__ = cause
                entry.answer.set_exception(error)


class Batcher:
    """One stage's queue, earliest deadline first, and its calls in flight.

    max_batch: items a call. slots: calls in flight. max_queue: items waiting.
    timeout_s: a call that takes longer counts as failed. A slot is free again when its call has
    really ended: a client that is slow to obey its cancellation keeps the slot until then.
    Belongs to one event loop.
    """

    def __init__(
        self, client: StageClient, *, max_batch: int, slots: int, max_queue: int, timeout_s: float, name: str
    ) -> None:
        self.name = name
        self._client = client
        self._max_batch = max_batch
        self._slots = slots
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._heap: list[tuple[float, int, _Entry]] = []  # may hold entries that nobody waits for any more
        self._waiting = 0
        self._submitted = 0
        self._calls: set[_Call] = set()
        self._item_s: float | None = None  # moving average of a slot's seconds an item
        self._woken = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that wait for a slot."""
        return self._waiting

    @property
    def in_flight(self) -> int:
        """Calls that hold a slot."""
        return len(self._calls)

    async def submit(self, item: Item) -> Answer:
        """The stage's opinion on the item; returns or raises by the item's deadline at the latest.

        Cancelling it takes the item back. Raises Overloaded when the queue is full, DeadlineExceeded
        when the deadline passes in the queue or in the stage, StageFailed when the stage fails.
        """
        left_s = item.left_s()
        if self._closed:
            raise StageFailed(f"{self.name} is shut down")
        if left_s <= 0:
            raise DeadlineExceeded(f"the deadline had passed before {self.name} was asked; allow more time")
        if self._waiting >= self._max_queue:
            wait_s = self._drain_s()
            raise Overloaded(f"{self._waiting} items wait for {self.name}; come back in {wait_s:.1f} s", wait_s)
        loop = asyncio.get_running_loop()
        entry = _Entry(item, time.monotonic(), loop.create_future())
        self._submitted += 1
        self._waiting += 1
        heappush(self._heap, (item.deadline_s, self._submitted, entry))
        if len(self._heap) > 2 * self._max_queue:
            self._sweep()
        self._wake()
        timer = loop.call_later(left_s, self._expire, entry)
        try:
            return await entry.answer
        finally:
            timer.cancel()
            if entry.call is None:
                self._waiting -= 1
            else:
                entry.call.waiters -= 1
                if not entry.call.waiters:
                    entry.call.stop()

    async def aclose(self) -> None:
        """Fail what waits, cancel what runs, and wait until it has ended. Takes no more items."""
        self._closed = True
        for _, _, entry in self._heap:
            if not entry.answer.done():
                entry.answer.set_exception(StageFailed(f"{self.name} is shut down"))
        self._heap.clear()
        calls = list(self._calls)
        for call in calls:
            call.fail(f"{self.name} is shut down")
            call.stop()
        if calls:
            await asyncio.wait([call.task for call in calls])

    def _wake(self) -> None:
        """Fill free slots once the callbacks that are ready now have run: what comes together goes together."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._woken = False
        loop = asyncio.get_running_loop()
        while len(self._calls) < self._slots and (entries := self._take()):
            task = loop.create_task(self._judge(entries), name=f"{self.name} x{len(entries)}")
            call = _Call(entries, task, waiters=len(entries))
            for entry in entries:
                entry.call = call
            self._calls.add(call)
            timer = loop.call_later(self._timeout_s, self._time_out, call)
            task.add_done_callback(partial(self._ended, call, timer))

    def _take(self) -> list[_Entry]:
        """The next batch: the earliest deadlines among those that somebody still waits for."""
        batch: list[_Entry] = []
        now = time.monotonic()
        while self._heap and len(batch) < self._max_batch:
            deadline_s, _, entry = heappop(self._heap)
            if deadline_s <= now:
                self._expire(entry)
            if not entry.answer.done():
                batch.append(entry)
        self._waiting -= len(batch)
        return batch

    def _sweep(self) -> None:
        """Rid the heap of what nobody waits for; at least half of it, so the cost a submission stays constant."""
        self._heap = [row for row in self._heap if not row[2].answer.done()]
        heapify(self._heap)

    def _expire(self, entry: _Entry) -> None:
        if not entry.answer.done():
            where = "waiting for" if entry.call is None else "inside"
            entry.answer.set_exception(DeadlineExceeded(f"the deadline passed {where} {self.name}; allow more time"))

    async def _judge(self, entries: list[_Entry]) -> None:
        began = time.monotonic()
        opinions = await self._client.judge([entry.item for entry in entries])
        round_trip_s = time.monotonic() - began
        if len(opinions) != len(entries):
            raise StageFailed(f"{self.name} gave {len(opinions)} opinions on {len(entries)} items")
        answers = [
            Answer(
                opinion,
                queue_ms=(began - entry.since) * 1000,
                hop_ms=max(0.0, round_trip_s * 1000 - opinion.batch_ms - opinion.compute_ms),
                batch_size=len(entries),
            )
            for entry, opinion in zip(entries, opinions, strict=True)
        ]
        for entry, answer in zip(entries, answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)
        item_s = round_trip_s / len(entries)
        self._item_s = item_s if self._item_s is None else 0.7 * self._item_s + 0.3 * item_s

    def _time_out(self, call: _Call) -> None:
        call.fail(f"{self.name} took longer than {self._timeout_s:g} s")
        call.stop()

    def _ended(self, call: _Call, timer: asyncio.TimerHandle, task: asyncio.Task[None]) -> None:
        timer.cancel()
        self._calls.discard(call)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StageFailed):
            call.fail(str(error), error)
        elif error is not None:
            call.fail(f"{self.name} raised {type(error).__name__}: {error}", error)
        else:
            call.fail(f"the call to {self.name} was cancelled")  # finds no one waiting unless the client did it
        if not self._closed:
            self._wake()

    def _drain_s(self) -> float:
        """How long the queue takes to empty at the pace of the last calls; a second before there were any."""
        if self._item_s is None:
            return 1.0
        return min(60.0, max(0.1, self._waiting * self._item_s / self._slots))
