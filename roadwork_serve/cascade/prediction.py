"""The contract between stages and the cascade: the input of a stage and its prediction."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.schema import Evidence

StageInput = Literal["thumbs", "images", "both"]


class Media(Protocol):
    """A decoded photo or clip, as far as the cascade needs it; `roadwork_serve.media` returns them."""

    @property
    def kind(self) -> Literal["photo", "clip"]:
        """Media type."""
        ...

    @property
    def images(self) -> tuple[bytes, ...]:
        """JPEGs of the sampled frames of a clip; none of a photo, whose page is made when a stage needs it."""
        ...

    @property
    def thumbs(self) -> NDArray[np.uint8]:
        """uint8 RGB of shape [n, side, side, 3]."""
        ...

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Position of each image in the clip, seconds."""
        ...

    @property
    def incomplete(self) -> bool:
        """True if the file is truncated or damaged, and this is the part that could be read."""
        ...


class Page:
    """The page of a photo, made once, when the first stage asks for it."""

    def __init__(self, make: Callable[[float], Awaitable[bytes]]) -> None:
        """Store the function that makes the page by a deadline on the clock of `time.monotonic()`."""
        self._make = make
        self._made: bytes | None = None
        self._making = asyncio.Lock()

    async def get(self, deadline_s: float) -> bytes:
        """Return the page. Raises the errors of `media.page`, or of the queue in front of the decoder."""
        async with self._making:
            if self._made is None:
                self._made = await self._make(deadline_s)
        return self._made


@dataclass(frozen=True, slots=True)
class Item:
    """A photo or clip on its way through the cascade."""

    request_id: str
    kind: Literal["photo", "clip"]
    #: JPEGs made by the decoding process, never the file that was sent: the sampled frames of a clip, or the page of
    #: a photo once a stage has needed it.
    images: tuple[bytes, ...]
    #: uint8 RGB of shape [n, side, side, 3], one per photo or frame, resized to a square; decoded once, for stage 1.
    thumbs: NDArray[np.uint8]
    #: Position of each frame in the clip, seconds; (0.0,) for a photo.
    timestamps_s: tuple[float, ...]
    #: On the clock of `time.monotonic()`.
    deadline_s: float
    #: Folder of the head that stage 1 uses; None for that of its engine.
    head: str | None = None
    #: Makes the page of a photo; None once `images` has it, and for clips.
    page: Page | None = field(default=None, compare=False)
    #: True if the file is truncated or damaged, and this is the part that could be read.
    incomplete: bool = False

    @classmethod
    def of(cls, media: Media, request_id: str, deadline_s: float, page: Page | None = None) -> "Item":
        """Return the item for a decoded photo or clip. `page` makes the page of a photo."""
        own = page if media.kind == "photo" else None
        return cls(
            request_id,
            media.kind,
            media.images,
            media.thumbs,
            media.timestamps_s,
            deadline_s,
            page=own,
            incomplete=media.incomplete,
        )

    async def with_images(self) -> "Item":
        """Return the item with its images, made by its deadline. Raises the errors of `Page.get`."""
        if self.page is None:
            return self
        return replace(self, images=(await self.page.get(self.deadline_s),), page=None)

    def left_s(self) -> float:
        """Return the seconds until the deadline; negative once it has passed."""
        return self.deadline_s - time.monotonic()

    def slim(self, sees: StageInput) -> "Item":
        """Return a copy with only the input that the stage uses, to reduce the size of calls."""
        return replace(
            self,
            images=() if sees == "thumbs" else self.images,
            thumbs=self.thumbs[:0] if sees == "images" else self.thumbs,
            page=None,
        )


@dataclass(frozen=True, slots=True)
class StagePrediction:
    """A stage's uncalibrated prediction for one item."""

    #: Log-odds of active road work; None if the stage abstains.
    logit: float | None
    #: Id or folder name of the model.
    model: str
    #: The model is a small stand-in.
    miniature: bool = False
    evidence: Evidence = field(default_factory=Evidence)
    #: Decoding and preprocessing of the whole batch.
    preprocess_ms: float = 0.0
    #: Inference on the whole batch.
    compute_ms: float = 0.0
    #: Tokens that a language model generated.
    tokens: int = 0
    #: Log-odds of a second head on the same features, for stages that have one.
    second_logit: float | None = None
    #: Features of stage 1 before any head, if they are kept: float16 [photos or frames, width].
    features: NDArray[np.float16] | None = field(default=None, compare=False)
    #: Why the stage abstains, if it does.
    abstention: str | None = None


class BlockingStage(Protocol):
    """A stage whose model blocks the calling thread; `ThreadedStage` makes a Stage of it."""

    @property
    def name(self) -> str:
        """Name of the stage."""
        ...

    @property
    def sees(self) -> StageInput:
        """Input that the stage uses."""
        ...

    def warm(self) -> None:
        """Run the model once on synthetic input, so that the first request is not slower than others."""
        ...

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """Return a prediction for each item, in order."""
        ...


class Stage(Protocol):
    """A stage in its own process."""

    @property
    def name(self) -> str:
        """Name of the stage."""
        ...

    @property
    def sees(self) -> StageInput:
        """Input that the stage uses."""
        ...

    async def warm(self) -> None:
        """Run the model once on synthetic input, so that the first request is not slower than others."""
        ...

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """Return a prediction for each item, in order."""
        ...

    async def check(self) -> None:
        """Raise an error if an engine in another process has died."""
        ...

    async def aclose(self) -> None:
        """Release the model."""
        ...


class StageClient(Protocol):
    """The cascade's connection to a stage: a Ray handle in production, a local object elsewhere."""

    @property
    def sees(self) -> StageInput:
        """Input that the stage uses."""
        ...

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """Return a prediction for each item, in order. Raises StageFailed if the stage cannot be reached."""
        ...
