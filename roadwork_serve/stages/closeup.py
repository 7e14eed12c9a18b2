"""Stage 1b: a closer look at tiles of the photo by the backbone of stage 1, for what the first look leaves open."""

import time
from collections.abc import Sequence

import numpy as np

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.thumbnails import ROADWORK, FeatureExtractor, reference_thumbs
from roadwork_serve.errors import MediaError
from roadwork_serve.media import open_rgb
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.schema import Evidence
from roadwork_serve.stages.options import validated
from roadwork_serve.stages.regions import heat_map, regions
from roadwork_serve.stages.tiles import COUNT, closeup_logit, cut_tiles, stitch

_SIDE = 224  # of a tile in pixels, unless the profile sets it


class Closeup:
    """Predicts from tiles of a photo, or of the middle frame of a clip; abstains while there is no head.

    It uses the engine of stage 1 with the heads that were loaded for it, and no weights of its own.
    """

    name = "closeup"
    sees: StageInput = "images"

    def __init__(self, spec: StageSpec, model: EngineSpec, engine: FeatureExtractor) -> None:
        """Create the stage on a loaded engine.

        Raises:
            ConfigError: An option is unknown.
        """
        validated(self.name, spec.options)
        self.model, self.engine = model, engine
        self.side = model.features.side or _SIDE

    def warm(self) -> None:
        """See `Stage`. Every photo has the same number of tiles, so one batch is enough."""
        self.engine.extract(reference_thumbs(self.side, COUNT))

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. Abstains from items without an image."""
        return [self._predict(item) for item in items]

    def _predict(self, item: Item) -> StagePrediction:
        stop_if_cancelled()
        if not (item.images and self.engine.has_head):
            return self._abstain("there is no head" if item.images else "the item has no image")
        began = time.perf_counter()
        try:
            image = open_rgb(item.images[len(item.images) // 2])
        except MediaError as error:
            return self._abstain(f"the image cannot be decoded: {error}")
        tiles = cut_tiles(image, self.side)
        cut = time.perf_counter()
        features = self.engine.extract(tiles)
        outputs = self.engine.apply_heads(features)
        patches = self.engine.patch_evidence(features)
        evidence = Evidence()
        if patches is not None and item.kind == "photo":
            whole = stitch(patches.logits)
            evidence = Evidence(regions=regions(whole, patches.classes), heat_map=heat_map(whole))
        logit = None
        if ROADWORK in outputs:
            scores = np.asarray(outputs[ROADWORK], np.float32).reshape(COUNT)
            logit = closeup_logit(scores, None if patches is None else patches.logits)
        spent = 1000 * (cut - began), 1000 * (time.perf_counter() - cut)
        return StagePrediction(logit, self.model.model, self.model.miniature, evidence, *spent)

    def _abstain(self, reason: str) -> StagePrediction:
        return StagePrediction(None, self.model.model, self.model.miniature, abstention=reason)
