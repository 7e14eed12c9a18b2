"""The FLOPs follow from the published sizes of the production models."""

from pathlib import Path

import pytest

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.flops import flops, profile_flops, stage_flops, verdict_costs
from roadwork_serve.profiles.load import load_policy_mapping, load_profile
from roadwork_serve.profiles.model_sizes import _DINOV3
from roadwork_serve.profiles.stage_kinds import STAGES
from roadwork_serve.schema import Verdict

CLOSE = 0.01
PACKAGE = Path(__file__).parents[2] / "roadwork_serve"
EXAMPLE = PACKAGE / "api/verdict_example.json"
GPU_PROFILES = sorted(file.stem for file in (PACKAGE / "profiles").glob("gpu-*.yaml"))


def layers(count: int, weights: float, tokens: int, width: int) -> float:
    """Return the FLOPs of transformer layers: linear and attention."""
    return count * (2 * weights * tokens + 4 * tokens**2 * width)


def qwen3_8b(tokens: int) -> float:
    weights = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 12288
    return layers(36, weights, tokens, 4096)


def qwen35_9b(tokens: int, seen: int | None = None) -> float:
    """Return the FLOPs of tokens that attend to each other, or of one that attends to those seen before."""
    mlp, linear, full = 3 * 4096 * 12288, 4096 * (8192 + 4096 + 64) + 4096**2, 4096 * (8192 + 2048) + 4096**2
    pairs = tokens**2 if seen is None else seen
    return 2 * tokens * (32 * mlp + 24 * linear + 8 * full) + 8 * 4 * pairs * 4096 + tokens * 24 * 6 * 32 * 128**2


def test_every_stage_has_flops() -> None:
    assert set(stage_flops()) == set(STAGES)


def test_backbone_is_a_vit_l() -> None:
    vit = layers(24, 12 * 1024**2, 201, 1024) + 2 * 196 * 768 * 1024
    assert flops(["backbone"], "photo") == pytest.approx(vit, rel=CLOSE)
    assert flops(["backbone"], "clip") == pytest.approx(8 * vit, rel=CLOSE)


def test_fast_vlm_is_a_qwen3_vl_8b() -> None:
    patches = layers(27, 1152 * (4 * 1152 + 2 * 4304), 1024, 1152)
    mergers = 4 * 2 * 256 * (4608 * 4608 + 4608 * 4096)
    assert flops(["vlm"], "photo") == pytest.approx(patches + mergers + qwen3_8b(321), rel=CLOSE)


def test_reasoner_is_the_vlm_and_256_tokens() -> None:
    token = qwen3_8b(1) + 36 * 4 * 450 * 4096 + 2 * 4096 * 151936
    assert flops(["reasoner"], "photo") - flops(["vlm"], "photo") == pytest.approx(256 * token, rel=CLOSE)


def test_video_is_a_molmo2_8b() -> None:
    patches = 8 * layers(25, 1152 * (4 * 1152 + 2 * 4304), 729, 1152)
    connector = 8 * 2 * (2 * 729 * 2304 * 1152 + 81 * (2 * 1152 * 12288 + 12288 * 4096))
    assert flops(["video"], "clip") == pytest.approx(patches + connector + qwen3_8b(764), rel=CLOSE)


def test_qwen35_has_prices_of_its_own() -> None:
    prices = profile_flops(load_profile("gpu-24gb-qwen35"))

    def vision(patches: int) -> float:
        merger = 2 * patches / 4 * (4608 * 4608 + 4608 * 4096)
        return layers(27, 1152 * (4 * 1152 + 2 * 4304), patches, 1152) + merger

    photo, output = vision(1024) + qwen35_9b(321), 2 * 4096 * 248320
    assert prices["vlm"].photo == pytest.approx(photo + output, rel=0.001)
    assert prices["vlm"].clip == pytest.approx(8 * (photo + output), rel=0.001)
    assert prices["reasoner"].photo == pytest.approx(photo + 256 * (qwen35_9b(1, seen=450) + output), rel=0.001)
    assert prices["video"].clip == pytest.approx(4 * vision(784) + qwen35_9b(849) + output, rel=0.001)


def test_signs_are_read_by_a_florence_2_large() -> None:
    """Vision as counted; the language part from its layers."""
    encoder = layers(12, 12 * 1024**2, 583, 1024)
    decoder = 2 * 12 * 2 * 1024**2 * 583 + 64 * 2 * (12 * 14 * 1024**2 + 1024 * 51290)
    assert flops(["signs"], "photo") == pytest.approx(1488e9 + encoder + decoder, rel=CLOSE)


def test_the_flops_of_a_path_add_up() -> None:
    assert flops(["backbone", "vlm"], "photo") == flops(["backbone"], "photo") + flops(["vlm"], "photo")
    assert flops([], "photo") == 0


@pytest.mark.parametrize(("stage", "kind"), [("video", "photo"), ("reasoner", "clip"), ("oracle", "photo")])
def test_a_stage_without_flops_is_rejected(stage: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"flops\.yaml"):
        flops([stage], kind)  # type: ignore[arg-type]


def vit(size: str, side: int) -> float:
    """Return the FLOPs of a DINOv3 ViT from the sizes in its config.json."""
    sizes = _DINOV3[size]
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    weights = 4 * width**2 + (3 if sizes.get("use_gated_mlp") else 2) * width * inner
    patches = (side // 16) ** 2
    return layers(sizes["num_hidden_layers"], weights, patches + 5, width) + 2 * patches * 768 * width


@pytest.mark.parametrize(
    ("size", "side"),
    [("s16", 224), ("b16", 224), ("l16", 224), ("l16", 256), ("l16", 512), ("h16plus", 224), ("h16plus", 256),
     ("7b16", 224), ("7b16", 256)],
)  # fmt: skip
def test_a_backbone_costs_what_its_size_and_its_input_call_for(size: str, side: int) -> None:
    engine = {"model": f"facebook/dinov3-vit{size}-pretrain-lvd1689m", "miniature": None}
    priced = profile_flops(load_profile("mini", {"media": {"thumb_side": side}, "engines": {"dinov3": engine}}))
    assert priced["backbone"].photo == pytest.approx(vit(size, side), rel=CLOSE)
    assert priced["backbone"].clip == pytest.approx(8 * vit(size, side), rel=CLOSE)


def test_a_mirror_costs_as_much_as_its_original_and_other_sides_by_their_pixels() -> None:
    mirror = {"model": "timm/vit_large_patch16_dinov3.lvd1689m", "miniature": None}
    priced = profile_flops(load_profile("mini", {"media": {"thumb_side": 384}, "engines": {"dinov3": mirror}}))
    assert priced["backbone"].photo == pytest.approx(vit("l16", 384), rel=0.15)


def test_a_miniature_costs_as_much_as_the_model_it_replaces() -> None:
    assert profile_flops(load_profile("mini"))["vlm"] == stage_flops()["vlm"]


@pytest.mark.parametrize("name", ["cpu", *GPU_PROFILES])
def test_every_engine_of_a_profile_has_its_own_price(name: str) -> None:
    profile = load_profile(name)
    for stage, price in profile_flops(profile).items():
        engine = profile.engine_of(stage)
        assert engine.miniature or engine.model.startswith(price.model), stage
        assert engine.miniature or price.source, f"{stage}: an estimate has a source"


@pytest.mark.parametrize("name", GPU_PROFILES)
def test_the_cascade_on_a_gpu_is_cheaper_than_its_last_stage(name: str) -> None:
    """With DINOv3-7B as stage 1 it was not: a clip took 28 TFLOP before Molmo's 16."""
    priced = profile_flops(load_profile(name))
    assert (priced["backbone"].clip or 0) < 0.1 * (priced["video"].clip or 0)
    assert (priced["backbone"].photo_ms or 0) < (priced["vlm"].photo_ms or 0) < (priced["reasoner"].photo_ms or 0)


def test_the_policy_reads_signs_first_only_where_there_is_text() -> None:
    policy = Policy.parse(load_policy_mapping(load_profile("gpu-24gb").policy))
    for steps in (policy.photo, policy.clip):
        signs = next(step for step in steps if step.stage == "signs")
        assert signs.min_text_probability is not None and signs.applies(0.9) and not signs.applies(0.1)


def test_verdicts_cost_what_the_engines_of_the_profile_cost() -> None:
    verdict = Verdict.model_validate_json(EXAMPLE.read_text())
    prices = profile_flops(load_profile("gpu-24gb"))
    costs = verdict_costs(verdict, {}, prices)
    ran = [(report, cost) for report, cost in zip(verdict.stages, costs, strict=True) if report.batch_size]
    assert ran and all(cost.flops == prices[report.stage].of(verdict.media) for report, cost in ran)
    assert [cost.flops for cost in costs] != [cost.flops for cost in verdict_costs(verdict, {})]
