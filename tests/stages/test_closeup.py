"""The closer look: tiles, their map, and the stage on the engine of stage 1."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from roadwork_serve.cascade.prediction import Item
from roadwork_serve.engines.registry import open_feature_extractor
from roadwork_serve.errors import ConfigError
from roadwork_serve.media import open_rgb
from roadwork_serve.media.photo import encode_jpeg
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.backbone import Backbone
from roadwork_serve.stages.closeup import Closeup
from roadwork_serve.stages.load import open_stages
from roadwork_serve.stages.tiles import COUNT, HEIGHT, LEFTS, TOPS, WIDTH, closeup_logit, cut_tiles, stitch
from tests import untrained
from tests.stages.items import clip, photo


def lite2() -> EngineSpec:
    return load_profile("cpu").engine_of("closeup")


def paged(image: Image.Image) -> Item:
    return Item("one", "photo", (encode_jpeg(image, 90),), np.zeros((0, 224, 224, 3), np.uint8), (0.0,), 1e9)


def test_tiles_cover_the_photo_but_its_upper_edge_and_overlap() -> None:
    ramp = np.zeros((200, 300, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 255, 300)[None], np.linspace(0, 255, 200)[:, None]
    tiles = cut_tiles(Image.fromarray(ramp), 32)
    assert tiles.shape == (COUNT, 32, 32, 3) and tiles.dtype == np.uint8
    places = [(top, left) for top in TOPS for left in LEFTS]
    for tile, (top, left) in zip(tiles, places, strict=True):
        assert tile[..., 0].mean() == pytest.approx(255 * (left + WIDTH / 2), abs=3)
        assert tile[..., 1].mean() == pytest.approx(255 * (top + HEIGHT / 2), abs=3)
    assert LEFTS[-1] + WIDTH == pytest.approx(1) and TOPS[-1] + HEIGHT == pytest.approx(1)
    assert LEFTS[1] < LEFTS[0] + WIDTH and TOPS[1] < TOPS[0] + HEIGHT


def test_the_logit_is_that_of_the_two_best_tiles_and_the_best_cell() -> None:
    scores = np.array([0, 3, -2, 1, -9, -9], np.float32)
    assert closeup_logit(scores, None) == 2
    patches = np.full((COUNT, 7, 7, 4), -5, np.float32)
    patches[2, 3, 3, 1] = 1.5
    assert closeup_logit(scores, patches) == 3.5


def test_the_map_shows_each_tile_s_cells_where_they_are() -> None:
    patches = np.full((COUNT, 4, 4, 1), -9, np.float32)
    patches[0, 0, 0], patches[5, 3, 3], patches[1, 3, 0] = 1, 2, 3
    whole = stitch(patches)
    assert whole.shape == (16, 16, 1)
    assert whole[2, 0] == 1  # the first tile begins a twentieth below the upper edge
    assert whole[15, 15] == 2 and whole[9, 5] == 3
    assert (whole[0] == -9).all() and (whole > -9).mean() < 0.15


def test_a_cone_in_a_corner_of_a_large_page_raises_the_logit_and_is_shown_there() -> None:
    stage = Closeup(StageSpec(engine="backbone"), lite2(), open_feature_extractor(lite2()))
    street = Image.new("RGB", (1280, 720), (118, 118, 116))
    street.paste((130, 160, 200), (0, 0, 1280, 300))
    with_cones = street.copy()
    for x in range(900, 1220, 70):
        for row in range(60):
            shade = (245, 245, 240) if 20 <= row < 32 else (240, 95, 30)
            half = 3 + row // 4
            with_cones.paste(shade, (x - half, 560 + row, x + half, 561 + row))
    plain, marked = stage.predict([paged(street), paged(with_cones)])
    assert plain.logit is not None and marked.logit is not None and marked.logit > plain.logit + 1
    best = marked.evidence.regions[0]
    assert best.kind == "cone" and best.box.x0 > 0.5 and best.box.y1 > 0.7
    assert len(marked.evidence.heat_map) == 16 and max(map(max, marked.evidence.heat_map)) > 30


def test_one_engine_serves_both_stages() -> None:
    specs = {"backbone": StageSpec(engine="e"), "closeup": StageSpec(engine="e")}
    opened = open_stages(EngineSpec(backend="transformers", model=str(untrained.backbone())), specs)  # type: ignore[arg-type]
    glance, closer = (opened[name]._stage for name in ("backbone", "closeup"))  # type: ignore[attr-defined]
    assert isinstance(glance, Backbone) and isinstance(closer, Closeup) and glance.engine is closer.engine
    assert (glance.sees, closer.sees) == ("thumbs", "images")


def test_a_clip_is_seen_by_its_middle_frame_and_without_a_patch_head_by_the_image_head_alone() -> None:
    model = EngineSpec(backend="transformers", model=str(untrained.backbone()))
    engine = open_feature_extractor(model)
    stage = Closeup(StageSpec(engine="e"), model, engine)
    item = clip(3)
    (prediction,) = stage.predict([item])
    middle = open_rgb(item.images[len(item.images) // 2])
    logits = engine.apply_heads(engine.extract(cut_tiles(middle, 224)))["roadwork"]
    assert prediction.logit == pytest.approx(float(np.sort(logits)[-2:].mean()), abs=1e-5)
    assert prediction.evidence.regions == [] and prediction.evidence.heat_map == []


def test_it_abstains_without_an_image_a_readable_image_or_a_head(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = EngineSpec(backend="transformers", model=str(untrained.backbone()))
    stage = Closeup(StageSpec(engine="e"), model, open_feature_extractor(model))
    item = photo(1)
    for each, why in (
        (replace(item, images=()), "no image"),
        (replace(item, images=(item.images[0][:90],)), "cannot be decoded"),
    ):
        (prediction,) = stage.predict([each])
        assert prediction.logit is None and why in str(prediction.abstention)
    with pytest.raises(ConfigError, match="tiles"):
        Closeup(StageSpec(engine="e", options={"tiles": 9}), model, stage.engine)
