"""The FLOPs follow from the published sizes of the production models."""

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.flops import flops, stage_flops
from roadwork_serve.profiles.profile import STAGES

CLOSE = 0.01


def layers(count: int, weights: float, tokens: int, width: int) -> float:
    """Return the FLOPs of transformer layers: linear and attention."""
    return count * (2 * weights * tokens + 4 * tokens**2 * width)


def qwen3_8b(tokens: int) -> float:
    weights = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 12288
    return layers(36, weights, tokens, 4096)


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
