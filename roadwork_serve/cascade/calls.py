"""What waits for a stage and what runs in it: the entries of a batcher's queue and its calls in flight."""

import asyncio
from dataclasses import dataclass

from roadwork_serve.cascade.prediction import Item, StagePrediction
from roadwork_serve.errors import StageFailed


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """An opinion and what it took to get it.

    queue_ms: from submission until a slot took the item; where a first call failed, that call too.
    rpc_ms: the client's round trip less what the stage reports as its own time.
    batch_size: items in the call.
    """

    opinion: StagePrediction
    queue_ms: float
    rpc_ms: float
    batch_size: int


@dataclass(slots=True, eq=False)
class QueuedItem:
    """An item somebody waits for. since: when it came, on the clock of `time.monotonic()`."""

    item: Item
    since: float
    answer: asyncio.Future[StageAnswer]
    call: "Call | None" = None  # None while it waits
    again: bool = False  # its first call failed
    alone: bool = False  # so it is not to be in a batch with others
    spare: bool = False  # worth asking only while there is nothing else to do


@dataclass(slots=True, eq=False)
class Call:
    """A batch in flight.

    began_s: when, on the clock of `time.monotonic()`. waiters: how many of its entries somebody still waits for.
    """

    entries: list[QueuedItem]
    task: asyncio.Task[None]
    began_s: float
    waiters: int
    spare: bool = False
    stopped: bool = False
    timed_out: bool = False

    def stop(self) -> None:
        """Cancel, once: a client that winds down in good order is not disturbed again."""
        if not self.stopped:
            self.stopped = True
            self.task.cancel()

    def fail(self, message: str, cause: BaseException | None = None) -> None:
        """Raise StageFailed for whoever still waits."""
        for entry in self.entries:
            fail(entry, message, cause)


def fail(
    entry: QueuedItem, message: str, cause: BaseException | None = None, kind: type[StageFailed] = StageFailed
) -> None:
    """Raise it for whoever waits for the entry, if it has no answer yet."""
    if not entry.answer.done():
        error = kind(message)
        error.__cause__ = cause
        entry.answer.set_exception(error)
