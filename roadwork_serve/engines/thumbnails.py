"""What the engines of stage 1 share: names of logits, how many thumbs go through the model at once, and those that
exports are checked on."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.errors import ModelError

if TYPE_CHECKING:
    import torch

ROADWORK, SECOND = "roadwork", "second"  # logits of road work, and those of a second head, on trial
REFERENCES = 5  # thumbs an export is checked on


class ExportedBackbone(ABC):
    """A stage 1 of one file, head and all: it gives logits and nothing before them."""

    has_head = True

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """What the logits are of, in order."""

    @abstractmethod
    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """uint8 RGB [n, side, side, 3] -> one array [n] for each output, by name."""

    def look(self, thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits, [n, outputs]."""
        return np.stack(list(self.logits(thumbs).values()), axis=1)

    def say(self, looked: NDArray[np.float32], head: str | None = None) -> dict[str, NDArray[np.float32]]:
        """The logits by name. Raises ModelError for a head of another's."""
        if head is not None:
            raise ModelError(f"an exported file speaks with its own head, not that in {head}: export it with --head")
        return {name: looked[:, at] for at, name in enumerate(self.outputs)}

    def kept(self, looked: NDArray[np.float32]) -> NDArray[np.float16]:
        """Raises ModelError: there is nothing to train a head on."""
        raise ModelError("an exported file tells no features: set runs: transformers, or journal.features: false")


def batch_sizes(most: int) -> tuple[int, ...]:
    """Powers of two below most, and most itself: the only batch sizes a compiled model is asked for."""
    return (*(1 << n for n in range((most - 1).bit_length())), most)


def batches(count: int, most: int) -> Iterator[slice]:
    """Where to cut count thumbs so that no pass has more than most; one empty pass for none.

    Raises GivenUp in place of a pass that nobody waits for any more.
    """
    for start in range(0, max(count, 1), most):
        stop_if_cancelled()
        yield slice(start, min(start + most, count))


def max_logit_difference(exported: int, wanted: int | None) -> None:
    """Raises ModelError when a file was exported for another side than is wanted, in pixels; None takes any."""
    if wanted not in (None, exported):
        raise ModelError(
            f"this file was exported for thumbs of {exported} px, and those that come have {wanted}: set "
            f"media.thumb_side to {exported}, or export it with --side {wanted}"
        )


def reference_thumbs(side: int, count: int = REFERENCES) -> NDArray[np.uint8]:
    """Noise, uint8 [count, side, side, 3], the same on every machine and with every version of numpy."""
    noise = hashlib.shake_256(b"roadwork").digest(count * side * side * 3)
    return np.frombuffer(noise, np.uint8).reshape(count, side, side, 3)


def to_device(thumbs: NDArray[np.uint8], size: int, device: "torch.device") -> "torch.Tensor":
    """The thumbs as uint8 [size, side, side, 3] on the device, black ones added up to size.

    On a GPU they go through pinned memory, and this returns before they are there.
    """
    import torch

    batch = torch.zeros((size, *thumbs.shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    batch.numpy()[: len(thumbs)] = thumbs
    return batch.to(device, non_blocking=True)
