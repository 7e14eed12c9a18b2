"""A stage that blocks, in a thread of its own: what Ray replicas, offline scoring and tests run it in."""

from collections.abc import Sequence

from roadwork_serve.cancellable_thread import CancellableThread
from roadwork_serve.cascade.prediction import BlockingStage, Item, StageInput, StagePrediction


class ThreadedStage:
    """A Stage over one that blocks."""

    def __init__(self, stage: BlockingStage) -> None:
        self.name = stage.name
        self.sees: StageInput = stage.sees
        self._stage = stage
        self._worker = CancellableThread(stage.name)

    async def warm(self) -> None:
        """See `Stage`. Raises whatever the stage raises."""
        await self._worker.run(self._stage.warm)

    async def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. Raises whatever the stage raises. A cancelled call ends when the stage stops: see `CancellableThread`."""
        return await self._worker.run(self._stage.judge, items)

    async def check(self) -> None:
        """See `Stage`: what blocks has no engine beside it that could have died."""

    async def aclose(self) -> None:
        """Wait for the call that runs and end the thread."""
        await self._worker.aclose()
