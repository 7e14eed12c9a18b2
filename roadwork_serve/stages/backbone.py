"""Stage 1: a frozen backbone and a small head settle the clear cases."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.opinion import Item, Opinion, Sees
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.weights import folder
from roadwork_serve.profiles.profile import StageSpec
from roadwork_serve.schema import Saw
from roadwork_serve.stages.options import checked


class Backbone:
    """Judges every photo and every sampled frame of a clip from its thumb; abstains while there is no head.

    Options: head (a folder with head.json and head.safetensors, when not beside the weights).
    """

    name = "backbone"
    sees: Sees = "thumbs"

    def __init__(self, spec: StageSpec) -> None:
        options = checked(self.name, spec.options, head=str)
        head = options.get("head")
        self.spec = spec
        self.engine = FeatureEngine(
            folder(spec.model),
            dtype=spec.dtype,
            device=spec.device,
            threads=spec.threads,
            head_folder=Path(head) if head else None,
        )

    def warm(self) -> None:
        """See `Stage`."""
        thumbs = np.zeros((1, 14 * self.engine.patch, 14 * self.engine.patch, 3), np.uint8)
        self.engine.features(thumbs) if self.engine.head is None else self.engine.logits(thumbs)

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """See `Stage`. A clip's logit is the mean of its frames' two highest."""
        if not items:
            return []
        if self.engine.head is None:
            return [Opinion(None, self.spec.model, self.spec.miniature) for _ in items]
        began = time.perf_counter()
        thumbs = np.concatenate([item.thumbs for item in items])
        cuts = np.cumsum([len(item.thumbs) for item in items])[:-1]
        collated = time.perf_counter()
        logits = self.engine.logits(thumbs)
        done = time.perf_counter()
        words = np.split(logits["words"], cuts) if "words" in logits else [None] * len(items)
        return [
            self._opinion(frames, seen, 1000 * (collated - began), 1000 * (done - collated))
            for frames, seen in zip(np.split(logits["roadwork"], cuts), words, strict=True)
        ]

    def _opinion(
        self, frames: NDArray[np.float32], words: NDArray[np.float32] | None, batch_ms: float, compute_ms: float
    ) -> Opinion:
        if not len(frames):
            return Opinion(None, self.spec.model, self.spec.miniature, batch_ms=batch_ms, compute_ms=compute_ms)
        saw = Saw(
            words_likely=None if words is None else float(_sigmoid(words).max()),
            frames=[float(p) for p in _sigmoid(frames)] if len(frames) > 1 else [],
        )
        logit = float(np.sort(frames)[-2:].mean())
        return Opinion(logit, self.spec.model, self.spec.miniature, saw, batch_ms, compute_ms)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logits.clip(-60, 60)))).astype(np.float32)
