"""Work-conserving batching: the moment a slot of a stage is free, everything that waits goes.

The stage pulls, no timer holds a batch back, and none is frozen while the stage is busy. The idea is
that of the queue in huggingface/text-embeddings-inference, with deadlines for its order.

What would come too late is not begun; what failed is tried once more, on whichever replica takes it; a stage that fails
again and again is left alone for a while.
"""

import asyncio
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from heapq import heapify, heappop, heappush

from roadwork_serve.cascade.calls import Call, QueuedItem, StageAnswer, fail
from roadwork_serve.cascade.circuit_breaker import FAILURES, CircuitBreaker, State
from roadwork_serve.cascade.latency import LatencyEstimator
from roadwork_serve.cascade.prediction import Item, StageClient
from roadwork_serve.errors import DeadlineExceeded, Overloaded, StageDown, StageFailed, StageLost

TRIAL_S = 1.0  # an idle stage that has answered nothing for so long is asked, however slow it was


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
        self._heap: list[tuple[float, int, QueuedItem]] = []  # may hold entries that nobody waits for any more
        self._waiting = 0
        self._booked: list[float] = []  # deadlines of items that are on their way here
        self._submitted = 0
        self._calls: set[Call] = set()
        self._item_s: float | None = None  # moving average of a slot's seconds an item
        self._pace = LatencyEstimator()
        self._breaker = CircuitBreaker()
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

    @property
    def idle(self) -> bool:
        """Nothing waits or is on its way, nothing runs, and nothing has made it rest."""
        return not (self._waiting or self._booked or self._calls) and self._breaker.state == "closed"

    @property
    def breaker(self) -> State:
        """Of the circuit breaker."""
        return self._breaker.state

    @property
    def p90_s(self) -> float | None:
        """What nine in ten calls with one item keep within, seconds; None while too few are known."""
        return self._pace.p90_s(1)

    def wait_s(self, deadline_s: float = math.inf) -> float:
        """How long an item with this deadline would wait for a slot if it came now, seconds: reckoned high, for what
        is begun and cannot be finished is lost to everybody.
        """
        return self._wait_s(deadline_s, booked=0)

    def admit(self, deadline_s: float) -> None:
        """Raises what `submit` would raise at once, were an item with this deadline to come now.

        Overloaded when the queue is full or too long for the deadline, DeadlineExceeded when the stage is too slow for
        it, StageDown while the stage rests after repeated failures. What is booked counts among what waits.
        """
        left_s = deadline_s - time.monotonic()
        self._open(left_s)
        coming = self._waiting + len(self._booked)
        if coming >= self._max_queue:
            wait_s = self._drain_s()
            raise Overloaded(f"{coming} items wait for {self.name}; come back in {wait_s:.1f} s", wait_s)
        needs_s = max(self._needs_s(1), self._needs_s(min(self._max_batch, coming + 1)))
        if self._wait_s(deadline_s, sum(each_s <= deadline_s for each_s in self._booked)) + needs_s > left_s:
            raise self._too_busy()

    @contextmanager
    def booked(self, deadline_s: float) -> Generator[None]:
        """Count an item among those that wait while something else is done to it first: what is refused then has cost
        nothing. Raises what `admit` raises.
        """
        self.admit(deadline_s)
        self._booked.append(deadline_s)
        try:
            yield
        finally:
            self._booked.remove(deadline_s)

    async def submit(self, item: Item, spare: bool = False, booked: bool = False) -> StageAnswer:
        """The stage's opinion on the item; returns or raises by the item's deadline at the latest.

        spare: ask while there is nothing else to do. StageFailed when something comes up that needs the slot.
        booked: it was counted already, so it is not refused for what waits, unless that becomes hopeless.
        Cancelling it takes the item back. Raises what `admit` raises, Overloaded too when others were served first for
        too long, DeadlineExceeded when the deadline passes in the queue or in the stage, StageFailed when the stage
        fails twice, or there is no time to ask twice.
        """
        left_s = item.left_s()
        if booked:
            self._open(left_s)
        else:
            self.admit(item.deadline_s)
        loop = asyncio.get_running_loop()
        entry = QueuedItem(item, time.monotonic(), loop.create_future(), alone=spare, again=spare, spare=spare)
        self._submitted += 1
        self._waiting += 1
        heappush(self._heap, (item.deadline_s, self._submitted, entry))
        if len(self._heap) > 2 * self._max_queue:
            self._sweep()
        self._wake()
        if not spare and len(self._calls) >= self._slots:
            self._make_room()
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

    def _open(self, left_s: float) -> None:
        """Raises what keeps out whoever comes, however little waits."""
        if self._closed:
            raise StageFailed(f"{self.name} is shut down")
        if left_s <= 0:
            raise DeadlineExceeded(f"the deadline had passed before {self.name} was asked; allow more time")
        if not self._breaker.lets_pass():
            rests_s = max(0.0, self._breaker.rests_s())
            raise StageDown(
                f"{self.name} failed {FAILURES} times or more in a row; it is tried again in {rests_s:.1f} s"
            )
        if (needs_s := self._needs_s(1)) > left_s:
            raise DeadlineExceeded(
                f"{self.name} takes up to {needs_s * 1000:.0f} ms and {left_s * 1000:.0f} ms are left; allow more time"
            )

    def _wait_s(self, deadline_s: float, booked: int) -> float:
        """See `wait_s`. booked: items beside those that wait which would go first."""
        ahead = booked + sum(row[0] <= deadline_s and not row[2].answer.done() for row in self._heap)
        free = sum(not call.spare for call in self._calls) < self._slots
        if free and not booked:
            return 0.0
        call_s = self._pace.p90_s(min(self._max_batch, ahead or 1)) or 0.0
        return (0.0 if free else self._free_in_s()) + call_s * (ahead // self._max_batch) / self._slots

    def _wake(self) -> None:
        """Fill free slots once the callbacks that are ready now have run: what comes together goes together."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._woken = False
        loop = asyncio.get_running_loop()
        while len(self._calls) < self._slots and self._breaker.lets_pass() and (entries := self._take()):
            self._breaker.began()
            task = loop.create_task(self._judge(entries), name=f"{self.name} x{len(entries)}")
            call = Call(entries, task, time.monotonic(), waiters=len(entries), spare=entries[0].spare)
            for entry in entries:
                entry.call = call
            self._calls.add(call)
            timer = loop.call_later(self._timeout_s, self._time_out, call)
            task.add_done_callback(partial(self._ended, call, timer))

    def _take(self) -> list[QueuedItem]:
        """The next batch: the earliest deadlines among those that somebody still waits for, and that can be kept.

        It is no larger than lets the first of them be in time. Not so when more waits than one batch takes: small
        batches would make all the others late, so who cannot be in time in a whole one is refused.
        """
        batch: list[QueuedItem] = []
        left = sum(not row[2].answer.done() for row in self._heap)
        most = min(self._max_batch, max(1, left))
        now = time.monotonic()
        while self._heap and len(batch) < most:
            deadline_s, _, entry = self._heap[0]
            if batch and entry.alone:
                break
            heappop(self._heap)
            if entry.answer.done():
                continue
            least = most if left > self._max_batch and not entry.alone else 1
            left -= 1
            if deadline_s <= now:
                self._expire(entry)
            elif deadline_s - now < self._needs_s(least):  # it fitted when it came
                if entry.again:
                    fail(entry, f"{self.name} failed, and there is no time to ask a second time")
                else:
                    entry.answer.set_exception(self._too_busy())
            if entry.answer.done():
                continue
            while not batch and most > least and self._needs_s(most) > deadline_s - now:
                most //= 2
            batch.append(entry)
            if entry.alone:
                break
        self._waiting -= len(batch)
        return batch

    def _free_in_s(self) -> float:
        """About how long until the first of the calls in flight ends, seconds."""
        now = time.monotonic()
        usual = [(self._pace.p90_s(len(call.entries)), now - call.began_s) for call in self._calls]
        # Of a call that has overrun nothing is known but that it may go on for as long again.
        return min((abs(usual_s - ran_s) for usual_s, ran_s in usual if usual_s is not None), default=0.0)

    def _needs_s(self, size: int) -> float:
        """What a call of that size is reckoned to take, seconds; 0 while too little is known, or a trial is due."""
        if not self._calls and time.monotonic() - self._pace.last_s > TRIAL_S:
            return 0.0
        return self._pace.p90_s(size) or 0.0

    def _too_busy(self) -> Overloaded:
        wait_s = self._drain_s()
        coming = self._waiting + len(self._booked)
        return Overloaded(f"{coming} items wait for {self.name}: too many for the time that is left", wait_s)

    def _sweep(self) -> None:
        """Rid the heap of what nobody waits for; at least half of it, so the cost a submission stays constant."""
        self._heap = [row for row in self._heap if not row[2].answer.done()]
        heapify(self._heap)

    def _expire(self, entry: QueuedItem) -> None:
        if entry.again and not entry.spare:
            fail(entry, f"{self.name} failed, and the deadline passed before it had answered a second time")
        elif not entry.answer.done():
            where = "waiting for" if entry.call is None else "inside"
            entry.answer.set_exception(DeadlineExceeded(f"the deadline passed {where} {self.name}; allow more time"))

    async def _judge(self, entries: list[QueuedItem]) -> None:
        began = time.monotonic()
        try:
            opinions = await self._client.judge([entry.item for entry in entries])
        except asyncio.CancelledError:
            self._pace.record(len(entries), time.monotonic() - began, whole=False)
            raise
        round_trip_s = time.monotonic() - began
        self._pace.record(len(entries), round_trip_s)
        if len(opinions) != len(entries):
            raise StageFailed(f"{self.name} gave {len(opinions)} opinions on {len(entries)} items")
        answers = [
            StageAnswer(
                opinion,
                queue_ms=(began - entry.since) * 1000,
                rpc_ms=max(0.0, round_trip_s * 1000 - opinion.preprocess_ms - opinion.compute_ms),
                batch_size=len(entries),
            )
            for entry, opinion in zip(entries, opinions, strict=True)
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

    def _ended(self, call: Call, timer: asyncio.TimerHandle, task: asyncio.Task[None]) -> None:
        timer.cancel()
        self._calls.discard(call)
        error = None if task.cancelled() else task.exception()
        abandoned = task.cancelled() and call.stopped and not call.timed_out
        if error is None and not task.cancelled():
            self._breaker.answered()
        elif abandoned or isinstance(error, StageDown) or call.entries[0].alone:  # tried apart, an item is to blame
            self._breaker.abandoned()
        else:
            self._count_failure()
        if error is None:
            call.fail(f"the call to {self.name} was cancelled")  # finds no one waiting unless the client did it
        elif isinstance(error, StageDown) or self._closed or self._breaker.state == "open":
            call.fail(self._told(error), error)
        else:
            self._try_again(call, error)
        if not self._closed:
            self._wake()

    def _make_room(self) -> None:
        """Stop a call that was only spare."""
        for call in self._calls:
            if call.spare and not call.stopped:
                call.fail(f"{self.name} had something else to do")
                call.stop()
                return

    def _count_failure(self) -> None:
        """Of a call; when it was one too many, what waits fails with it."""
        if self._breaker.failed():
            for _, _, entry in self._heap:
                fail(entry, f"{self.name} failed {FAILURES} times or more in a row; it rests", kind=StageDown)

    def _try_again(self, call: Call, error: BaseException) -> None:
        """Queue the items of a failed call once more: apart, for one may have spoilt it, unless the call got lost."""
        for entry in call.entries:
            if entry.again or entry.item.left_s() <= self._needs_s(1):
                fail(entry, self._told(error), error)
            elif not entry.answer.done():
                entry.again, entry.alone, entry.call = True, not isinstance(error, StageLost), None
                self._submitted += 1
                self._waiting += 1
                heappush(self._heap, (entry.item.deadline_s, self._submitted, entry))

    def _told(self, error: BaseException) -> str:
        return str(error) if isinstance(error, StageFailed) else f"{self.name} raised {type(error).__name__}: {error}"

    def _drain_s(self) -> float:
        """How long the queue takes to empty at the pace of the last calls; a second before there were any."""
        if self._item_s is None:
            return 1.0
        return min(60.0, max(0.1, (self._waiting + len(self._booked)) * self._item_s / self._slots))
