"""Parts that all engines of stage 1 share: the interface, names of logits, batching, and reference thumbnails."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.errors import ModelError

if TYPE_CHECKING:
    import torch

ROADWORK, SECOND = "roadwork", "second"  # names of the logit of road work, and of that of a second head
_WITHOUT_BETWEEN = 8  # the padding of smaller batches costs little
REFERENCES = 5  # thumbnails an export is checked with


@dataclass(frozen=True, slots=True)
class PatchEvidence:
    """Evidence of road work by class and place."""

    #: Names of the classes.
    classes: tuple[str, ...]
    #: float32 [n, rows, columns, classes].
    logits: NDArray[np.float32]


class FeatureExtractor(Protocol):
    """The engine of stage 1."""

    @property
    def has_head(self) -> bool:
        """True if the engine has a head of its own."""
        ...

    def warm(self) -> None:
        """Run the model at the batch sizes that will occur.

        Raises:
            ModelError: The model cannot run at one of them.
        """
        ...

    def extract(self, thumbs: NDArray[np.uint8]) -> Any:
        """Return the input of `apply_heads` and `stored_features`, a row for each of uint8 RGB [n, side, side, 3]."""
        ...

    def apply_heads(self, features: Any, head: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Return the logits [n] by name: of the engine's own head, or of the head in a folder.

        Raises:
            ModelError: The folder has no head for this backbone.
        """
        ...

    def stored_features(self, features: Any) -> NDArray[np.float16]:
        """Return the features that the journal stores for training heads, [n, width]."""
        ...

    def patch_evidence(self, features: Any) -> PatchEvidence | None:
        """Return the evidence by class and place; None without a patch head."""
        ...


class ExportedBackbone(ABC):
    """A backbone exported together with its head: it returns logits, and no features."""

    has_head = True

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the logits in order."""

    @abstractmethod
    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the logits [n] of each output by name, for uint8 RGB [n, side, side, 3]."""

    def extract(self, thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits, float32 [n, outputs]."""
        return np.stack(list(self.logits(thumbs).values()), axis=1)

    def apply_heads(self, features: NDArray[np.float32], head: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Return the logits by name.

        Raises:
            ModelError: Another head is named.
        """
        if head is not None:
            raise ModelError(f"an exported file has its own head and cannot run that in {head}: export it with --head")
        return {name: features[:, at] for at, name in enumerate(self.outputs)}

    def stored_features(self, features: NDArray[np.float32]) -> NDArray[np.float16]:
        """Raise ModelError, since an exported file returns no features."""
        raise ModelError("an exported file returns no features: set backend: transformers, or journal.features: false")

    def patch_evidence(self, features: NDArray[np.float32]) -> None:
        """Return None, since an exported file has no patch head."""
        return None


def batch_sizes(most: int) -> tuple[int, ...]:
    """Return the batch sizes a compiled model runs: powers of two below `most`, from 12 on half-way too, and `most`.

    A batch is padded to the next size: with powers of two alone 33 thumbnails would cost as much as 64.
    """
    powers = [1 << n for n in range((most - 1).bit_length())]
    between = [3 * power // 2 for power in powers if power >= _WITHOUT_BETWEEN]
    return (*sorted(size for size in (*powers, *between) if size < most), most)


def batches(count: int, most: int) -> Iterator[slice]:
    """Yield slices that cut `count` thumbnails into batches of at most `most`; one empty slice if there are none.

    Raises:
        CallCancelledError: The call has been cancelled; raised before the next batch.
    """
    for start in range(0, max(count, 1), most):
        stop_if_cancelled()
        yield slice(start, min(start + most, count))


def check_side(exported: int, wanted: int | None) -> None:
    """Raise ModelError if a file was exported for another side, in pixels; None accepts any."""
    if wanted not in (None, exported):
        raise ModelError(
            f"this file was exported for thumbnails of {exported} px, and these have {wanted}: set "
            f"media.thumb_side to {exported}, or export it with --side {wanted}"
        )


def reference_thumbs(side: int, count: int = REFERENCES) -> NDArray[np.uint8]:
    """Return noise, uint8 [count, side, side, 3], the same on every machine and with every version of numpy."""
    noise = hashlib.shake_256(b"roadwork").digest(count * side * side * 3)
    return np.frombuffer(noise, np.uint8).reshape(count, side, side, 3)


def to_device(thumbs: NDArray[np.uint8], size: int, device: "torch.device") -> "torch.Tensor":
    """Return the thumbnails on the device as uint8 [size, side, side, 3], padded with black ones.

    The copy to a GPU goes through pinned memory and is asynchronous.
    """
    import torch

    batch = torch.zeros((size, *thumbs.shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    batch.numpy()[: len(thumbs)] = thumbs
    return batch.to(device, non_blocking=True)
