"""A blocking stage in a thread of its own, for Ray replicas, batch scoring and tests."""

from collections.abc import Sequence

from roadwork_serve.cancellable_thread import CancellableThread
from roadwork_serve.cascade.prediction import BlockingStage, Item, StageInput, StagePrediction


class ThreadedStage:
    """A Stage on top of a BlockingStage."""

    def __init__(self, stage: BlockingStage) -> None:
        self.name = stage.name
        self.sees: StageInput = stage.sees
        self._stage = stage
        self._worker = CancellableThread(stage.name)

    async def warm(self) -> None:
        """Warm the stage up. Raises any error of the stage."""
        await self._worker.run(self._stage.warm)

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """Return a prediction for each item. Raises any error of the stage.

        On cancellation, waits until the stage has stopped: see `CancellableThread`.
        """
        return await self._worker.run(self._stage.predict, items)

    async def check(self) -> None:
        """Do nothing: a blocking stage has no engine in another process that could have died."""

    async def aclose(self) -> None:
        """Wait for the running call and end the thread."""
        await self._worker.aclose()
