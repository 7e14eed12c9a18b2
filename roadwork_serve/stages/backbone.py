"""Stage 1: a frozen backbone and a small head settle the clear cases."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.opinion import Item, Opinion, Sees
from roadwork_serve.engines.weights import folder
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import EngineSpec, StageSpec
from roadwork_serve.schema import Saw
from roadwork_serve.stages.options import checked

_MAX_THUMBS = 16  # in one pass, where no profile has said how many


class Glancer(Protocol):
    """What the stage asks of an engine."""

    @property
    def has_head(self) -> bool:
        """Whether it can answer at all."""
        ...

    def warm(self) -> None:
        """Run it at the sizes of batches that will come. Raises ModelError when it cannot."""
        ...

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """uint8 RGB [n, side, side, 3] -> one array [n] for each output, by name."""
        ...


class Backbone:
    """Judges every photo and every sampled frame of a clip from its thumb; abstains while there is no head."""

    name = "backbone"
    sees: Sees = "thumbs"

    def __init__(self, spec: StageSpec, model: EngineSpec) -> None:
        checked(self.name, spec.options)
        self.model = model
        self.engine = _open(model)

    def warm(self) -> None:
        """See `Stage`."""
        self.engine.warm()

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """See `Stage`. A clip's logit is the mean of its frames' two highest."""
        if not items:
            return []
        if not self.engine.has_head:
            return [Opinion(None, self.model.model, self.model.miniature) for _ in items]
        began = time.perf_counter()
        thumbs = np.concatenate([item.thumbs for item in items])
        cuts = np.cumsum([len(item.thumbs) for item in items])[:-1]
        collated = time.perf_counter()
        logits = self.engine.logits(thumbs) if len(thumbs) else {"roadwork": np.empty(0, np.float32)}
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
            return Opinion(None, self.model.model, self.model.miniature, batch_ms=batch_ms, compute_ms=compute_ms)
        saw = Saw(
            words_likely=None if words is None else float(_sigmoid(words).max()),
            frames=[float(p) for p in _sigmoid(frames)] if len(frames) > 1 else [],
        )
        logit = float(np.sort(frames)[-2:].mean())
        return Opinion(logit, self.model.model, self.model.miniature, saw, batch_ms, compute_ms)


def _open(model: EngineSpec) -> Glancer:
    seen = model.features
    if seen.head and model.runs != "transformers":
        raise ConfigError("features.head: an exported file holds its head; take it out, or export with --head")
    match model.runs:
        case "transformers":
            from roadwork_serve.engines.features import FeatureEngine

            return FeatureEngine(
                folder(model.model),
                dtype=model.dtype,
                device=model.device,
                threads=model.threads,
                head_folder=Path(seen.head) if seen.head else None,
                side=seen.side,
                max_thumbs=seen.max_thumbs or _MAX_THUMBS,
                compile=seen.compile,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                gpu_memory_gib=model.gpu_memory_gib,
            )
        case "onnx":
            from roadwork_serve.engines.onnx import OnnxBackbone

            return OnnxBackbone(
                Path(model.model),
                threads=model.threads,
                device=model.device,
                side=seen.side,
                max_thumbs=seen.max_thumbs or _MAX_THUMBS,
            )
        case "tensorrt":
            from roadwork_serve.engines.tensorrt import TensorRtBackbone

            return TensorRtBackbone(Path(model.model), side=seen.side, max_thumbs=seen.max_thumbs or _MAX_THUMBS)
        case _:
            raise ConfigError(f"stages.backbone: {model.runs} runs no backbone; use transformers, onnx or tensorrt")


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logits.clip(-60, 60)))).astype(np.float32)
