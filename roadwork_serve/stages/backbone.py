"""Stage 1: a frozen backbone and a small head settle the clear cases."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.thumbnails import ROADWORK, SECOND
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import EngineSpec, StageSpec
from roadwork_serve.schema import Evidence
from roadwork_serve.stages.options import validated

_NONE = np.empty(0, np.float32)
_MAX_THUMBS = 16  # in one pass, where no profile has said how many


class FeatureExtractor(Protocol):
    """What the stage asks of an engine."""

    @property
    def has_head(self) -> bool:
        """Whether it can answer at all, without a head that a policy names."""
        ...

    def warm(self) -> None:
        """Run it at the sizes of batches that will come. Raises ModelError when it cannot."""
        ...

    def look(self, thumbs: NDArray[np.uint8]) -> Any:
        """uint8 RGB [n, side, side, 3] -> what `say` and `kept` make something of, a row each."""
        ...

    def say(self, looked: Any, head: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Logits [n] by name, of its own head or of the one in that folder. Raises ModelError where there is none."""
        ...

    def kept(self, looked: Any) -> NDArray[np.float16]:
        """What heads can be trained on, [n, width]."""
        ...


class Backbone:
    """Judges every photo and every sampled frame of a clip from its thumb; abstains while there is no head.

    A second head, on trial, judges the same; what it says is kept apart. An item may ask for another head, by folder.
    """

    name = "backbone"
    sees: StageInput = "thumbs"

    def __init__(self, spec: StageSpec, model: EngineSpec) -> None:
        validated(self.name, spec.options)
        self.model = model
        self.engine = _open(model)

    def warm(self) -> None:
        """See `Stage`."""
        self.engine.warm()

    def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. A clip's logit is the mean of its frames' two highest."""
        if not items:
            return []
        heads = {item.head for item in items}
        if not (self.model.features.kept or self.engine.has_head or heads != {None}):
            return [StagePrediction(None, self.model.model, self.model.miniature) for _ in items]
        began = time.perf_counter()
        thumbs = np.concatenate([item.thumbs for item in items])
        whose = np.repeat(np.arange(len(items)), [len(item.thumbs) for item in items])
        collated = time.perf_counter()
        said: list[dict[str, NDArray[np.float32]]] = [{} for _ in items]
        kept: NDArray[np.float16] | None = None
        if len(thumbs):
            looked = self.engine.look(thumbs)
            kept = self.engine.kept(looked) if self.model.features.kept else None
            for head in heads:
                if head is None and not self.engine.has_head:
                    continue
                mine = np.isin(whose, [at for at, item in enumerate(items) if item.head == head])
                logits = self.engine.say(looked if mine.all() else looked[mine], head)
                for at in np.unique(whose[mine]):
                    said[at] = {name: told[whose[mine] == at] for name, told in logits.items()}
        times_ms = 1000 * (collated - began), 1000 * (time.perf_counter() - collated)
        return [
            self._opinion(logits, None if kept is None else kept[whose == at], *times_ms)
            for at, logits in enumerate(said)
        ]

    def _opinion(
        self,
        logits: Mapping[str, NDArray[np.float32]],
        features: NDArray[np.float16] | None,
        preprocess_ms: float,
        compute_ms: float,
    ) -> StagePrediction:
        """logits: of the frames of one item, by what they are of."""
        frames, words = logits.get(ROADWORK, _NONE), logits.get("words", _NONE)
        evidence = Evidence(
            text_probability=float(_sigmoid(words).max()) if len(words) else None,
            frames=[float(p) for p in _sigmoid(frames)] if len(frames) > 1 else [],
        )
        return StagePrediction(
            _together(frames), self.model.model, self.model.miniature, evidence, preprocess_ms, compute_ms,
            second_logit=_together(logits.get(SECOND, _NONE)), features=features,
        )  # fmt: skip


def _open(model: EngineSpec) -> FeatureExtractor:
    seen = model.features
    if seen.head and model.runs != "transformers":
        raise ConfigError("features.head: an exported file holds its head; take it out, or export with --head")
    match model.runs:
        case "transformers":
            from roadwork_serve.engines.features import FeatureEngine

            return FeatureEngine(
                weights_folder(model.model),
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
