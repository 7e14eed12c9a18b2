import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roadwork_serve.cascade.prediction import Item
from roadwork_serve.engines.features import FeatureEngine, Head, HeadSettings
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.backbone import Backbone
from tests import untrained
from tests.engines.tiny import tiny_dino
from tests.stages.items import clip, photo


def backbone(folder: Path, **features: object) -> Backbone:
    model = {"backend": "transformers", "model": str(folder), "miniature": True, "features": features}
    return Backbone(StageSpec(engine="dinov3"), EngineSpec.model_validate(model))


def test_every_frame_of_a_clip_gets_a_probability() -> None:
    stage = backbone(untrained.backbone())
    still, moving = stage.predict([photo(1).slim("thumbs"), clip(2).slim("thumbs")])
    assert still.evidence.frame_probabilities == []
    assert len(moving.evidence.frame_probabilities) == 8
    logits = sorted(np.log(p / (1 - p)) for p in moving.evidence.frame_probabilities)
    assert moving.logit == pytest.approx((logits[-1] + logits[-2]) / 2, abs=1e-4)
    assert still.miniature and still.compute_ms > 0
    assert still.evidence.text_probability is not None


def test_batched_items_get_the_same_logits_as_alone() -> None:
    stage = backbone(untrained.backbone())
    items = [photo(1), clip(2), photo(3)]
    together = [o.logit for o in stage.predict(items)]
    assert together == pytest.approx([stage.predict([item])[0].logit for item in items], abs=1e-4)


def test_abstains_without_a_head_until_one_is_named() -> None:
    bare = backbone(untrained.backbone(head=False))
    bare.warm()
    assert bare.predict([photo(1)])[0].logit is None
    headed = backbone(untrained.backbone(head=False), head=str(untrained.backbone()))
    assert headed.predict([photo(1)])[0].logit is not None


def test_a_second_head_gives_a_separate_logit() -> None:
    folder = str(untrained.backbone())
    stage, plain = backbone(untrained.backbone(), second_head=folder), backbone(untrained.backbone())
    items = [photo(1), clip(2)]
    on_trial, without = stage.predict(items), plain.predict(items)
    assert [o.logit for o in on_trial] == pytest.approx([o.logit for o in without], abs=1e-5)
    assert [o.second_logit for o in on_trial] == pytest.approx([o.logit for o in without], abs=1e-5)
    assert [o.evidence for o in on_trial] == [o.evidence for o in without]
    assert [o.second_logit for o in without] == [None, None]


def test_a_second_head_alone_does_not_set_the_logit() -> None:
    stage = backbone(untrained.backbone(head=False), second_head=str(untrained.backbone()))
    (prediction,) = stage.predict([clip(2)])
    assert prediction.logit is None and prediction.evidence.frame_probabilities == []
    assert prediction.second_logit is not None


def test_unknown_options_are_rejected() -> None:
    model = EngineSpec(backend="transformers", model=str(untrained.backbone()))
    with pytest.raises(ConfigError, match="no option 'max_pixels'"):
        Backbone(StageSpec(engine="dinov3", options={"max_pixels": 3}), model)


def test_an_engine_that_runs_no_backbone_is_rejected() -> None:
    with pytest.raises(ConfigError, match="rapidocr cannot run a backbone"):
        Backbone(StageSpec(engine="ocr"), EngineSpec(backend="rapidocr", model="PP-OCRv6-small"))


def test_items_without_a_frame_do_not_reach_the_model() -> None:
    stage = backbone(untrained.backbone())
    empty = replace(photo(1), thumbs=np.empty((0, 224, 224, 3), np.uint8))
    assert stage.predict([empty])[0].logit is None


def test_the_engine_of_stage_1_gets_the_sizes_of_the_profile() -> None:
    profile = load_profile(
        "mini", {"media": {"thumb_side": 256, "frames": 4}, "stages": {"backbone": {"max_batch": 2}}}
    )
    seen = profile.engine_of("backbone").features
    assert (seen.side, seen.max_thumbs) == (256, 8)
    assert load_profile("mini").engine_of("backbone").features.max_thumbs == 16
    on_gpu = {"device": "cuda", "num_gpus": 0.2}
    assert load_profile("mini", {"engines": {"dinov3": on_gpu}}).engine_of("backbone").features.max_thumbs == 64
    asked = {"engines": {"dinov3": {"features": {"max_thumbs": 3}}}}
    assert load_profile("mini", asked).engine_of("backbone").features.max_thumbs == 3
    with pytest.raises(ConfigError, match=r"engines\.dinov3\.features\.side is 256, and media\.thumb_side is 224"):
        load_profile("mini", {"engines": {"dinov3": {"features": {"side": 256}}}})


def test_it_warms_up_at_the_side_of_the_profile() -> None:
    changes = {"media": {"thumb_side": 256}, "stages": {"backbone": {"max_batch": 1}}}
    profile = load_profile("mini", changes | {"engines": {"dinov3": {"backend": "transformers"}}})
    stage = Backbone(profile.stages["backbone"], profile.engine_of("backbone"))
    seen: list[tuple[int, ...]] = []
    stage.engine.backbone.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    stage.warm()
    assert seen == [(1, 3, 256, 256), (8, 3, 256, 256)]


def test_a_file_exported_for_another_side_is_rejected_at_the_start() -> None:
    engine = {"backend": "onnx", "model": str(untrained.exported_backbone())}
    profile = load_profile("mini", {"media": {"thumb_side": 256}, "engines": {"dinov3": engine}})
    with pytest.raises(ModelError, match=r"exported for thumbnails of 32 px.*have 256: set media\.thumb_side to 32"):
        Backbone(profile.stages["backbone"], profile.engine_of("backbone"))


def test_a_head_cannot_be_put_on_an_exported_file() -> None:
    for name in ("head", "second_head"):
        model = {"backend": "onnx", "model": "a.onnx", "features": {name: "b"}}
        with pytest.raises(ConfigError, match=r"features\.second_head: an exported file contains its head"):
            Backbone(StageSpec(engine="e"), EngineSpec.model_validate(model))


def headed(folder: Path, seed: int, **settings: object) -> str:
    torch.manual_seed(seed)
    folder.mkdir()
    Head(HeadSettings(**({"width": 24, "hidden": 8} | settings))).save(folder)
    return str(folder)


def small(items: int) -> list[Item]:
    thumbs = reference_thumbs(32, items + 2)
    cuts = [thumbs[:3], *(thumbs[at : at + 1] for at in range(3, items + 2))]  # a clip of three frames, and photos
    return [Item(f"r{at}", "photo", (), cut, (0.0,), 0.0) for at, cut in enumerate(cuts)]


def test_items_of_one_batch_may_use_different_heads(tmp_path: Path) -> None:
    model = tiny_dino(tmp_path / "model")
    one, two = headed(tmp_path / "one", 1), headed(tmp_path / "two", 2, recipe="cls+mean", outputs=("roadwork",))
    stage = backbone(Path(model), side=32, policy_heads=str(tmp_path))
    items = [replace(item, head=head) for item, head in zip(small(4), (one, two, None, one), strict=True)]
    alone = [backbone(Path(model), side=32, **({"head": head} if head else {})) for head in (one, two, None, one)]
    together = stage.predict(items)
    for item, prediction, own in zip(items, together, alone, strict=True):
        wanted = own.predict([replace(item, head=None)])[0]
        assert prediction.logit == pytest.approx(wanted.logit, abs=1e-5)
        assert prediction.evidence.text_probability == pytest.approx(wanted.evidence.text_probability, abs=1e-5)
    assert together[1].evidence.text_probability is None


def test_a_policy_may_provide_the_first_head(tmp_path: Path) -> None:
    stage = backbone(Path(tiny_dino(tmp_path / "model")), side=32, policy_heads=str(tmp_path))
    (tmp_path / "model" / "head.json").unlink()
    bare = backbone(tmp_path / "model", side=32, policy_heads=str(tmp_path))
    head = headed(tmp_path / "one", 1)
    items = [replace(small(1)[0], head=head), small(1)[0]]
    assert [prediction.logit is None for prediction in bare.predict(items)] == [False, True]
    assert [prediction.logit is None for prediction in stage.predict(items)] == [False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "there is no head gone below"),
        ({"width": 12}, "features of width 12"),
        ({"outputs": ("words",)}, "has no output roadwork"),
        ({"backbone": "0" * 64}, "was trained on another backbone"),
    ],
)
def test_an_incompatible_head_is_an_error_when_requested(
    tmp_path: Path, settings: dict[str, object] | None, message: str
) -> None:
    stage = backbone(Path(tiny_dino(tmp_path / "model")), side=32, policy_heads=str(tmp_path))
    head = str(tmp_path / "gone") if settings is None else headed(tmp_path / "bad", 1, **settings)
    with pytest.raises(ModelError, match=message):
        stage.predict([replace(small(1)[0], head=head)])
    assert stage.predict(small(1))[0].logit is not None


def test_a_head_that_never_ends_is_an_error_and_stops_nobody(tmp_path: Path) -> None:
    stage = backbone(Path(tiny_dino(tmp_path / "model")), side=32, policy_heads=str(tmp_path))
    (tmp_path / "stuck").mkdir()
    for name in ("head.json", "head.safetensors"):
        os.mkfifo(tmp_path / "stuck" / name)
    with pytest.raises(ModelError, match="there is no head stuck below"):
        stage.predict([replace(small(1)[0], head="stuck")])
    assert stage.predict(small(1))[0].logit is not None


def test_features_are_returned_if_kept_with_or_without_a_head(tmp_path: Path) -> None:
    model = Path(tiny_dino(tmp_path / "model"))
    (model / "head.json").unlink()
    (still, moving), (plain, _) = (
        backbone(model, side=32, keep_features=kept).predict(small(2)[::-1]) for kept in (True, False)
    )
    assert plain.features is None
    assert still.features is not None and moving.features is not None
    assert (still.features.shape, still.features.dtype, moving.features.shape) == ((1, 24), np.float16, (3, 24))
    wanted = FeatureEngine(str(model), side=32).features(small(2)[1].thumbs).numpy()
    assert still.features == pytest.approx(wanted, abs=2e-3)


def test_a_head_gives_the_same_logit_on_stored_features(tmp_path: Path) -> None:
    stage = backbone(Path(tiny_dino(tmp_path / "model")), side=32, keep_features=True, policy_heads=str(tmp_path))
    head = headed(tmp_path / "one", 1)
    prediction = stage.predict([replace(small(2)[1], head="one")])[0]
    assert prediction.features is not None
    with torch.inference_mode():
        again = Head.load(Path(head)).eval()(torch.from_numpy(prediction.features.astype(np.float32)))
    assert float(again[0, 0]) == pytest.approx(prediction.logit, abs=5e-3)


def test_an_exported_file_uses_its_own_head_only() -> None:
    model = EngineSpec.model_validate({"backend": "onnx", "model": str(untrained.exported_backbone())})
    stage = Backbone(StageSpec(engine="dinov3"), model)
    assert stage.predict(small(1))[0].logit is not None
    with pytest.raises(ModelError, match="has its own head"):
        stage.predict([replace(small(1)[0], head="heads/2")])
