"""Stage 1: a frozen backbone and a small head, which decide the clear cases."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.registry import open_feature_extractor
from roadwork_serve.engines.thumbnails import ROADWORK, SECOND, FeatureExtractor, PatchEvidence
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.schema import Evidence
from roadwork_serve.stages.options import validated
from roadwork_serve.stages.regions import heat_map, regions_of_frames

_EMPTY = np.empty(0, np.float32)


class Backbone:
    """Predicts for every photo and sampled frame from its thumbnail; abstains while there is no head.

    A second head predicts from the same features, and its result is reported separately. An item may name another
    head by its folder.
    """

    name = "backbone"
    sees: StageInput = "thumbs"

    def __init__(self, spec: StageSpec, model: EngineSpec, engine: FeatureExtractor | None = None) -> None:
        """Load the engine.

        Args:
            spec: Settings of the stage.
            model: Settings of the engine.
            engine: The engine, if it is loaded already.

        Raises:
            ConfigError: An option is unknown, or the backend cannot run a backbone.
            ModelError: The model cannot be loaded.
        """
        validated(self.name, spec.options)
        self.model = model
        self.engine = engine or open_feature_extractor(model)

    def warm(self) -> None:
        """See `Stage`."""
        self.engine.warm()

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. A clip's logit is the mean of its two highest frames."""
        if not items:
            return []
        heads = {item.head for item in items}
        if not (self.model.features.keep_features or self.engine.has_head or heads != {None}):
            nothing = StagePrediction(None, self.model.model, self.model.miniature, abstention="there is no head")
            return [nothing for _ in items]
        began = time.perf_counter()
        thumbs = np.concatenate([item.thumbs for item in items])
        owner = np.repeat(np.arange(len(items)), [len(item.thumbs) for item in items])
        collated = time.perf_counter()
        logits: list[dict[str, NDArray[np.float32]]] = [{} for _ in items]
        stored: NDArray[np.float16] | None = None
        patches: PatchEvidence | None = None
        if len(thumbs):
            features = self.engine.extract(thumbs)
            stored = self.engine.stored_features(features) if self.model.features.keep_features else None
            patches = self.engine.patch_evidence(features)
            for head in heads:
                if head is None and not self.engine.has_head:
                    continue
                rows = np.isin(owner, [at for at, item in enumerate(items) if item.head == head])
                outputs = self.engine.apply_heads(features if rows.all() else features[rows], head)
                for at in np.unique(owner[rows]):
                    logits[at] = {name: values[owner[rows] == at] for name, values in outputs.items()}
        times_ms = 1000 * (collated - began), 1000 * (time.perf_counter() - collated)
        predictions = [
            self._prediction(each, None if stored is None else stored[owner == at], *times_ms)
            for at, each in enumerate(logits)
        ]
        return predictions if patches is None else self._with_patches(predictions, patches, items, owner)

    @staticmethod
    def _with_patches(
        predictions: list[StagePrediction], patches: PatchEvidence, items: Sequence[Item], owner: NDArray[np.int64]
    ) -> list[StagePrediction]:
        """Return the predictions with the regions, and the heat map of a photo."""
        found = []
        for at, (prediction, item) in enumerate(zip(predictions, items, strict=True)):
            frames = patches.logits[owner == at]
            heat = heat_map(frames[0]) if len(item.thumbs) == 1 else []
            shown = {"regions": regions_of_frames(frames, patches.classes), "heat_map": heat}
            found.append(replace(prediction, evidence=prediction.evidence.model_copy(update=shown)))
        return found

    def _prediction(
        self,
        logits: Mapping[str, NDArray[np.float32]],
        features: NDArray[np.float16] | None,
        preprocess_ms: float,
        compute_ms: float,
    ) -> StagePrediction:
        """Return the prediction for one item from the logits of its frames by name."""
        frames, text = logits.get(ROADWORK, _EMPTY), logits.get("words", _EMPTY)
        evidence = Evidence(
            text_probability=float(_sigmoid(text).max()) if len(text) else None,
            frame_probabilities=[float(p) for p in _sigmoid(frames)] if len(frames) > 1 else [],
        )
        return StagePrediction(
            _pooled(frames), self.model.model, self.model.miniature, evidence, preprocess_ms, compute_ms,
            second_logit=_pooled(logits.get(SECOND, _EMPTY)), features=features,
        )  # fmt: skip


def _pooled(frames: NDArray[np.float32]) -> float | None:
    """Return the mean of the two highest logits; None if there are none."""
    return float(np.sort(frames)[-2:].mean()) if len(frames) else None


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logits.clip(-60, 60)))).astype(np.float32)
