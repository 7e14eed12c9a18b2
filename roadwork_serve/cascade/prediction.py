"""What a stage is shown and what it says: the contract between stages and the cascade."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.schema import Evidence

StageInput = Literal["thumbs", "images", "both"]


class Media(Protocol):
    """What `roadwork_serve.media` makes of bytes, as far as the cascade needs to know it."""

    @property
    def kind(self) -> Literal["photo", "clip"]: ...
    @property
    def images(self) -> tuple[bytes, ...]: ...
    @property
    def thumbs(self) -> NDArray[np.uint8]: ...
    @property
    def timestamps_s(self) -> tuple[float, ...]: ...


@dataclass(frozen=True, slots=True)
class Item:
    """One photo or clip on its way through the cascade.

    images: encoded JPEG, PNG or WebP; one for a photo, the sampled frames for a clip.
    thumbs: uint8 RGB of shape [n, side, side, 3], one per image, squashed to a square;
        decoded once, for stage 1.
    timestamps_s: seconds into the clip of each frame; (0.0,) for a photo.
    deadline_s: on the clock of `time.monotonic()`.
    head: folder of the head that stage 1 is to speak with; None for that of its engine.
    """

    request_id: str
    kind: Literal["photo", "clip"]
    images: tuple[bytes, ...]
    thumbs: NDArray[np.uint8]
    timestamps_s: tuple[float, ...]
    deadline_s: float
    head: str | None = None

    @classmethod
    def of(cls, media: Media, request_id: str, deadline_s: float) -> "Item":
        """The item for a decoded photo or clip."""
        return cls(request_id, media.kind, media.images, media.thumbs, media.timestamps_s, deadline_s)

    def left_s(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self.deadline_s - time.monotonic()

    def slim(self, sees: StageInput) -> "Item":
        """A copy without what the stage does not look at, to travel light."""
        if sees == "thumbs":
            return replace(self, images=())
        if sees == "images":
            return replace(self, thumbs=self.thumbs[:0])
        return self


@dataclass(frozen=True, slots=True)
class StagePrediction:
    """A stage's raw word on one item.

    logit: log-odds of active road work, uncalibrated; None when the stage abstains.
    model: the id or folder name of the model that spoke.
    batch_ms: decoding and collating, for the whole batch; compute_ms: the model, for the whole batch.
    second_logit: what a second head made of the same features, where the stage has one on trial.
    features: of stage 1, before any head, where they are kept: float16 [photos or frames, width].
    """

    logit: float | None
    model: str
    miniature: bool = False
    evidence: Evidence = field(default_factory=Evidence)
    preprocess_ms: float = 0.0
    compute_ms: float = 0.0
    tokens: int = 0
    second_logit: float | None = None
    features: NDArray[np.float16] | None = field(default=None, compare=False)


class BlockingStage(Protocol):
    """A stage whose model runs in this process and knows nothing of asyncio; `Threaded` makes a Stage of it."""

    @property
    def name(self) -> str: ...
    @property
    def sees(self) -> StageInput: ...

    def warm(self) -> None:
        """Run the model once on made-up input, so that the first request pays nothing extra."""
        ...

    def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """One opinion an item, in order."""
        ...


class Stage(Protocol):
    """What runs inside a stage's process."""

    @property
    def name(self) -> str: ...
    @property
    def sees(self) -> StageInput: ...

    async def warm(self) -> None:
        """Run the model once on made-up input, so that the first request pays nothing extra."""
        ...

    async def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """One opinion an item, in order."""
        ...

    async def check(self) -> None:
        """Raises when an engine beside this process has died."""
        ...

    async def aclose(self) -> None:
        """Let go of the model."""
        ...


class StageClient(Protocol):
    """How the cascade reaches a stage: a Ray handle in production, a local object elsewhere."""

    async def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """One opinion an item, in order. Raises StageFailed when the stage cannot be reached."""
        ...
