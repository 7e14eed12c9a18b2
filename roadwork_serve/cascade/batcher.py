"""Work-conserving batching: as soon as a slot of a stage is free, all queued items are sent.

The stage pulls; no timer delays a batch, and no batch is fixed while the stage is busy. The idea is that of the queue
in huggingface/text-embeddings-inference, with deadlines for its order.

Items that cannot meet their deadline are not sent. Failed calls are retried once, on whichever replica takes them. A
stage that fails repeatedly is not called during a cooldown.
"""

import asyncio
import math
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from heapq import heapify, heappop, heappush

from roadwork_serve.cascade.calls import Call, QueuedItem, StageAnswer, fail
from roadwork_serve.cascade.circuit_breaker import FAILURES, CircuitBreaker, State
from roadwork_serve.cascade.latency import LatencyEstimator
from roadwork_serve.cascade.prediction import Item, StageClient
from roadwork_serve.errors import DeadlineExceeded, MediaError, Overloaded, StageDown, StageFailed, StageLost

RETEST_S = 1.0  # an idle stage without an answer for this long is called again, however slow it was


class Batcher:
    """One stage's queue, earliest deadline first, and its calls in flight. Belongs to one event loop.

    Args:
        client: the stage.
        max_batch: items in a call.
        slots: concurrent calls. A slot is free again when its call has really ended: a client that is slow to obey a
            cancellation keeps the slot until then.
        max_queue: queued items.
        timeout_s: a call that takes longer counts as failed.
        name: of the stage, for messages.
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
        self._heap: list[tuple[float, int, QueuedItem]] = []  # may contain entries without a caller
        self._queued = 0
        self._reserved: list[float] = []  # deadlines of items that have reserved a place
        self._submitted = 0
        self._calls: set[Call] = set()
        self._item_s: float | None = None  # moving average of a slot's seconds per item
        self._latency = LatencyEstimator()
        self._breaker = CircuitBreaker()
        self._fill_scheduled = False
        self._closed = False

    @property
    def queued(self) -> int:
        """Items in the queue."""
        return self._queued

    @property
    def in_flight(self) -> int:
        """Calls that occupy a slot."""
        return len(self._calls)

    @property
    def idle(self) -> bool:
        """True if no item is queued, reserved or in flight, and the circuit breaker is closed."""
        return not (self._queued or self._reserved or self._calls) and self._breaker.state == "closed"

    @property
    def breaker(self) -> State:
        """State of the circuit breaker."""
        return self._breaker.state

    @property
    def p90_s(self) -> float | None:
        """90th percentile of calls with one item, seconds; None while too few are known."""
        return self._latency.p90_s(1)

    def queue_wait_s(self, deadline_s: float = math.inf) -> float:
        """Return the estimated queueing time in seconds of an item with this deadline that arrives now.

        Deliberately pessimistic: work that misses its deadline is wasted.
        """
        return self._queue_wait_s(deadline_s, reserved=0)

    def admit(self, deadline_s: float) -> None:
        """Raise the error that `submit` would raise at once for an item with this deadline. Reserved places count.

        Raises:
            Overloaded: the queue is full, or too long for the deadline.
            DeadlineExceeded: the stage is too slow for the deadline.
            StageDown: the circuit breaker is open.
        """
        left_s = deadline_s - time.monotonic()
        self._check_available(left_s)
        ahead = self._queued + len(self._reserved)
        if ahead >= self._max_queue:
            wait_s = self._drain_s()
            raise Overloaded(f"{ahead} items are queued for {self.name}; retry in {wait_s:.1f} s", wait_s)
        call_s = max(self._call_s(1), self._call_s(min(self._max_batch, ahead + 1)))
        earlier = sum(each_s <= deadline_s for each_s in self._reserved)
        if self._queue_wait_s(deadline_s, earlier) + call_s > left_s:
            raise self._queue_too_long()

    @contextmanager
    def reserve(self, deadline_s: float) -> Generator[None]:
        """Reserve a place in the queue while the item is prepared, so that rejected items cost no preparation.

        Raises the errors of `admit`.
        """
        self.admit(deadline_s)
        self._reserved.append(deadline_s)
        try:
            yield
        finally:
            self._reserved.remove(deadline_s)

    async def submit(self, item: Item, best_effort: bool = False, reserved: bool = False) -> StageAnswer:
        """Return the stage's prediction for the item, or raise an error, by the item's deadline at the latest.

        Cancellation withdraws the item.

        Args:
            item: the input.
            best_effort: run only while the stage has nothing else to do; StageFailed if other work needs the slot.
            reserved: the item has a reserved place. It is not rejected for the length of the queue, unless its
                deadline becomes infeasible.

        Raises:
            Overloaded: as in `admit`, or other items took precedence for too long.
            DeadlineExceeded: as in `admit`, or the deadline passed in the queue or in the stage.
            StageFailed: the stage failed twice, or failed with no time for a retry, or the photo cannot be decoded to
                a page for it. StageDown: as in `admit`.
        """
        if item.page is not None and self._client.sees != "thumbs":
            item, reserved = await self._with_images(item, reserved), True
        left_s = item.left_s()
        if reserved:
            self._check_available(left_s)
        else:
            self.admit(item.deadline_s)
        loop = asyncio.get_running_loop()
        entry = QueuedItem(
            item,
            time.monotonic(),
            loop.create_future(),
            isolated=best_effort,
            retried=best_effort,
            best_effort=best_effort,
        )
        self._submitted += 1
        self._queued += 1
        heappush(self._heap, (item.deadline_s, self._submitted, entry))
        if len(self._heap) > 2 * self._max_queue:
            self._compact()
        self._schedule_fill()
        if not best_effort and len(self._calls) >= self._slots:
            self._preempt_best_effort()
        timer = loop.call_later(left_s, self._expire, entry)
        try:
            return await entry.answer
        finally:
            timer.cancel()
            if entry.call is None:
                self._queued -= 1
            else:
                entry.call.waiters -= 1
                if not entry.call.waiters:
                    entry.call.stop()

    async def _with_images(self, item: Item, reserved: bool) -> Item:
        """Return the item with its images, while it has a place in the queue."""
        with nullcontext() if reserved else self.reserve(item.deadline_s):
            try:
                return await item.with_images()
            except MediaError as error:
                raise StageFailed(f"{self.name} gets no image: {error}") from error

    async def aclose(self) -> None:
        """Fail all queued items, cancel all calls and wait until they have ended. No more items are accepted."""
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

    def _check_available(self, left_s: float) -> None:
        """Raise the errors that do not depend on the length of the queue."""
        if self._closed:
            raise StageFailed(f"{self.name} is shut down")
        if left_s <= 0:
            raise DeadlineExceeded(f"the deadline had passed before {self.name} was called; allow more time")
        if not self._breaker.allow():
            cooldown_s = max(0.0, self._breaker.cooldown_left_s())
            raise StageDown(
                f"{self.name} failed {FAILURES} times or more in a row; it is called again in {cooldown_s:.1f} s"
            )
        if (call_s := self._call_s(1)) > left_s:
            raise DeadlineExceeded(
                f"{self.name} takes up to {call_s * 1000:.0f} ms and {left_s * 1000:.0f} ms are left; allow more time"
            )

    def _queue_wait_s(self, deadline_s: float, reserved: int) -> float:
        """Return the estimate of `queue_wait_s`. `reserved` items take precedence beside those in the queue."""
        ahead = reserved + sum(row[0] <= deadline_s and not row[2].answer.done() for row in self._heap)
        free = sum(not call.best_effort for call in self._calls) < self._slots
        if free and not reserved:
            return 0.0
        call_s = self._latency.p90_s(min(self._max_batch, ahead or 1)) or 0.0
        return (0.0 if free else self._next_slot_s()) + call_s * (ahead // self._max_batch) / self._slots

    def _schedule_fill(self) -> None:
        """Fill free slots after the callbacks that are ready now: items that arrive together share a batch."""
        if not self._fill_scheduled:
            self._fill_scheduled = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._fill_scheduled = False
        loop = asyncio.get_running_loop()
        while len(self._calls) < self._slots and self._breaker.allow() and (entries := self._next_batch()):
            self._breaker.on_start()
            task = loop.create_task(self._predict(entries), name=f"{self.name} x{len(entries)}")
            call = Call(entries, task, time.monotonic(), waiters=len(entries), best_effort=entries[0].best_effort)
            for entry in entries:
                entry.call = call
            self._calls.add(call)
            timer = loop.call_later(self._timeout_s, self._time_out, call)
            task.add_done_callback(partial(self._on_call_end, call, timer))

    def _next_batch(self) -> list[QueuedItem]:
        """Return the next batch: the earliest deadlines that have a caller and can be met.

        The batch is small enough for its first item to be in time. If more items are queued than fit in one batch,
        small batches would make all others late; in that case items that need one are rejected instead.
        """
        batch: list[QueuedItem] = []
        left = sum(not row[2].answer.done() for row in self._heap)
        size = min(self._max_batch, max(1, left))
        now = time.monotonic()
        while self._heap and len(batch) < size:
            deadline_s, _, entry = self._heap[0]
            if batch and entry.isolated:
                break
            heappop(self._heap)
            if entry.answer.done():
                continue
            min_size = size if left > self._max_batch and not entry.isolated else 1
            left -= 1
            if deadline_s <= now:
                self._expire(entry)
            elif deadline_s - now < self._call_s(min_size):  # it was feasible on arrival
                if entry.retried:
                    fail(entry, f"{self.name} failed, and there is no time for a retry")
                else:
                    entry.answer.set_exception(self._queue_too_long())
            if entry.answer.done():
                continue
            while not batch and size > min_size and self._call_s(size) > deadline_s - now:
                size //= 2
            batch.append(entry)
            if entry.isolated:
                break
        self._queued -= len(batch)
        return batch

    def _next_slot_s(self) -> float:
        """Return the estimated seconds until the first of the calls in flight ends."""
        now = time.monotonic()
        calls = [(self._latency.p90_s(len(call.entries)), now - call.started_s) for call in self._calls]
        # All that is known of a call beyond its estimate is that it may take as long again.
        return min((abs(p90_s - ran_s) for p90_s, ran_s in calls if p90_s is not None), default=0.0)

    def _call_s(self, size: int) -> float:
        """Return the estimated seconds of a call; 0 while too little is known, or if a new measurement is due."""
        if not self._calls and time.monotonic() - self._latency.last_s > RETEST_S:
            return 0.0
        return self._latency.p90_s(size) or 0.0

    def _queue_too_long(self) -> Overloaded:
        wait_s = self._drain_s()
        ahead = self._queued + len(self._reserved)
        return Overloaded(f"{ahead} items are queued for {self.name}, too many for the time that is left", wait_s)

    def _compact(self) -> None:
        """Remove entries without a caller: half of the heap or more, so a submission costs constant time on average."""
        self._heap = [row for row in self._heap if not row[2].answer.done()]
        heapify(self._heap)

    def _expire(self, entry: QueuedItem) -> None:
        if entry.retried and not entry.best_effort:
            fail(entry, f"{self.name} failed, and the deadline passed during the retry")
        elif not entry.answer.done():
            where = "in the queue of" if entry.call is None else "inside"
            entry.answer.set_exception(DeadlineExceeded(f"the deadline passed {where} {self.name}; allow more time"))

    async def _predict(self, entries: list[QueuedItem]) -> None:
        began = time.monotonic()
        try:
            predictions = await self._client.predict([entry.item for entry in entries])
        except asyncio.CancelledError:
            self._latency.record(len(entries), time.monotonic() - began, completed=False)
            raise
        round_trip_s = time.monotonic() - began
        self._latency.record(len(entries), round_trip_s)
        if len(predictions) != len(entries):
            raise StageFailed(f"{self.name} returned {len(predictions)} predictions for {len(entries)} items")
        answers = [
            StageAnswer(
                prediction,
                queue_ms=(began - entry.submitted_s) * 1000,
                rpc_ms=max(0.0, round_trip_s * 1000 - prediction.preprocess_ms - prediction.compute_ms),
                batch_size=len(entries),
            )
            for entry, prediction in zip(entries, predictions, strict=True)
        ]
        for entry, answer in zip(entries, answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)
        item_s = round_trip_s / len(entries)
        self._item_s = item_s if self._item_s is None else 0.7 * self._item_s + 0.3 * item_s

    def _time_out(self, call: Call) -> None:
        call.fail(f"{self.name} took longer than {self._timeout_s:g} s")
        call.timed_out = True
        call.stop()

    def _on_call_end(self, call: Call, timer: asyncio.TimerHandle, task: asyncio.Task[None]) -> None:
        timer.cancel()
        self._calls.discard(call)
        error = None if task.cancelled() else task.exception()
        abandoned = task.cancelled() and call.stopped and not call.timed_out
        if error is None and not task.cancelled():
            self._breaker.on_success()
        elif abandoned or isinstance(error, StageDown) or call.entries[0].isolated:  # isolated: the item is to blame
            self._breaker.on_cancel()
        else:
            self._record_failure()
        if error is None:
            call.fail(f"the call to {self.name} was cancelled")  # callers still wait only if the client cancelled it
        elif isinstance(error, StageDown) or self._closed or self._breaker.state == "open":
            call.fail(self._message(error), error)
        else:
            self._retry(call, error)
        if not self._closed:
            self._schedule_fill()

    def _preempt_best_effort(self) -> None:
        """Stop one best-effort call."""
        for call in self._calls:
            if call.best_effort and not call.stopped:
                call.fail(f"{self.name} has other work")
                call.stop()
                return

    def _record_failure(self) -> None:
        """Record a failed call; if it opens the breaker, all queued items fail."""
        if self._breaker.on_failure():
            for _, _, entry in self._heap:
                fail(entry, f"{self.name} failed {FAILURES} times or more in a row; it is in cooldown", kind=StageDown)

    def _retry(self, call: Call, error: BaseException) -> None:
        """Queue the items of a failed call again: each on its own, in case one caused it, unless the call was lost."""
        for entry in call.entries:
            if entry.retried or entry.item.left_s() <= self._call_s(1):
                fail(entry, self._message(error), error)
            elif not entry.answer.done():
                entry.retried, entry.isolated, entry.call = True, not isinstance(error, StageLost), None
                self._submitted += 1
                self._queued += 1
                heappush(self._heap, (entry.item.deadline_s, self._submitted, entry))

    def _message(self, error: BaseException) -> str:
        return str(error) if isinstance(error, StageFailed) else f"{self.name} raised {type(error).__name__}: {error}"

    def _drain_s(self) -> float:
        """Return the seconds until the queue is empty at the rate of the last calls; a second before there were any."""
        if self._item_s is None:
            return 1.0
        return min(60.0, max(0.1, (self._queued + len(self._reserved)) * self._item_s / self._slots))
