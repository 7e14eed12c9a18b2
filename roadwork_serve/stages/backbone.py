"""Stage 1: a frozen backbone and a small head settle the clear cases."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.opinion import Item, Opinion, Sees
from roadwork_serve.engines.thumbs import ROADWORK, SECOND
from roadwork_serve.engines.weights import folder
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import EngineSpec, StageSpec
from roadwork_serve.schema import Saw
from roadwork_serve.stages.options import checked

_NONE = np.empty(0, np.float32)
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
    """Judges every photo and every sampled frame of a clip from its thumb; abstains while there is no head.

    A second head, on trial, judges the same; what it says is kept apart.
    """

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
        logits = self.engine.logits(thumbs) if len(thumbs) else {}
        done = time.perf_counter()
        parts = {name: np.split(told, cuts) for name, told in logits.items()}
        return [
            self._opinion({name: part[at] for name, part in parts.items()}, collated - began, done - collated)
            for at in range(len(items))
        ]

    def _opinion(self, logits: Mapping[str, NDArray[np.float32]], batch_s: float, compute_s: float) -> Opinion:
        """logits: of the frames of one item, by what they are of."""
        frames, words = logits.get(ROADWORK, _NONE), logits.get("words", _NONE)
        saw = Saw(
            words_likely=float(_sigmoid(words).max()) if len(words) else None,
            frames=[float(p) for p in _sigmoid(frames)] if len(frames) > 1 else [],
        )
        return Opinion(
            _together(frames), self.model.model, self.model.miniature, saw, 1000 * batch_s, 1000 * compute_s,
            second_logit=_together(logits.get(SECOND, _NONE)),
        )  # fmt: skip


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
                second_head_folder=Path(seen.second_head) if seen.second_head else None,
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


def _together(frames: NDArray[np.float32]) -> float | None:
    """The logit of an item: of its frames' the mean of the two highest; None when it has none."""
    return float(np.sort(frames)[-2:].mean()) if len(frames) else None


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logits.clip(-60, 60)))).astype(np.float32)
