"""The queue entries of a batcher and its calls in flight."""

import asyncio
from dataclasses import dataclass

from roadwork_serve.cascade.prediction import Item, StagePrediction
from roadwork_serve.errors import StageFailed


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """A stage's prediction and its timing."""

    prediction: StagePrediction
    #: From submission until a slot took the item; includes the first call if that one failed.
    queue_ms: float
    #: The client's round trip without the time that the stage reports as its own.
    rpc_ms: float
    #: Items in the call.
    batch_size: int


@dataclass(slots=True, eq=False)
class QueuedItem:
    """An item with a caller that waits for its answer."""

    item: Item
    #: Time of submission, on the clock of `time.monotonic()`.
    submitted_s: float
    answer: asyncio.Future[StageAnswer]
    #: None while the item is queued.
    call: "Call | None" = None
    #: Its first call failed.
    retried: bool = False
    #: It must not share a batch with other items.
    isolated: bool = False
    #: It runs only while the stage has nothing else to do.
    best_effort: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """A batch in flight."""

    entries: list[QueuedItem]
    task: asyncio.Task[None]
    #: On the clock of `time.monotonic()`.
    started_s: float
    #: Entries whose caller still waits.
    waiters: int
    best_effort: bool = False
    stopped: bool = False
    timed_out: bool = False

    def stop(self) -> None:
        """Cancel the call once: an orderly shutdown of the client is not interrupted by a second cancellation."""
        if not self.stopped:
            self.stopped = True
            self.task.cancel()

    def fail(self, message: str, cause: BaseException | None = None) -> None:
        """Raise StageFailed for all callers that still wait."""
        for entry in self.entries:
            fail(entry, message, cause)


def fail(
    entry: QueuedItem, message: str, cause: BaseException | None = None, kind: type[StageFailed] = StageFailed
) -> None:
    """Raise an error for the caller of the entry, if it has no answer yet."""
    if not entry.answer.done():
        error = kind(message)
        error.__cause__ = cause
        entry.answer.set_exception(error)
