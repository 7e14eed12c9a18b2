"""Tests of the estimated latency of the cascade, on synthetic exit mixes."""

from dataclasses import asdict

import pytest

from benchmarks.gpu_models.cascade import Step, estimate, spread

STEPS = [Step("backbone", False, 100), Step("signs", True, 1000), Step("vlm", False, 5000)]
MIX = {"backbone": 0.75, "signs": 0.125, "vlm": 0.125}
MS = {"backbone": 2.0, "signs": 32.0, "vlm": 64.0}


def test_latency_of_a_made_up_mix_is_exact() -> None:
    # A quarter passes the backbone; an eighth exits at signs, and half of those at the VLM visited signs, too.
    result = estimate(STEPS, MIX, MS, "vlm", mean_gflop=100 + 0.1875 * 1000 + 0.125 * 5000)
    assert asdict(result.upper) == {"mean_ms": 1.5 + 34 / 8 + 98 / 8, "p50_ms": 2, "p90_ms": 98, "p99_ms": 98}
    assert asdict(result.lower) == {"mean_ms": 1.5 + 34 / 8 + 66 / 8, "p50_ms": 2, "p90_ms": 66, "p99_ms": 66}
    assert result.mean_ms == 2 + 0.1875 * 32 + 0.125 * 64
    assert (result.single_stage, result.single_stage_ms) == ("vlm", 64)


@pytest.mark.parametrize("mean_gflop", [None, 100.0, 9e9])
def test_there_is_no_mean_if_the_compute_does_not_fit(mean_gflop: float | None) -> None:
    assert estimate(STEPS, MIX, MS, "vlm", mean_gflop).mean_ms is None


def test_without_conditional_stages_the_mean_is_known() -> None:
    result = estimate([STEPS[0], STEPS[2]], {"backbone": 0.75, "vlm": 0.25}, MS, "vlm")
    assert result.mean_ms == result.upper.mean_ms == result.lower.mean_ms == 2 + 0.25 * 64


def test_a_mix_of_other_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="the policy has backbone, signs, vlm"):
        estimate(STEPS, {"backbone": 1.0}, MS, "vlm")
    with pytest.raises(ValueError, match=r"add up to 0\.4"):
        spread([(0.4, 1.0)])
