"""Stages that cannot run yet do not keep a server from its start."""

from typing import Any

import pytest

from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.optional_stages import with_optional_stages
from roadwork_serve.profiles.profile import Profile

DINOV3: dict[str, Any] = {"stages": {"backbone": {"engine": "dinov3"}}}


def readable(engine: EngineSpec) -> None:
    return None


def optional(profile: Profile) -> dict[str, str | None]:
    return {name: spec.note for name, spec in profile.stages.items() if not spec.required}


def test_a_backbone_of_the_hub_without_a_head_is_not_required() -> None:
    notes = optional(with_optional_stages(load_profile("gpu-24gb", DINOV3), readable))
    assert set(notes) == {"backbone"}
    assert "has no head yet, so it abstains: train one with `roadwork train-head`" in (notes["backbone"] or "")


def test_a_backbone_with_a_head_is_required() -> None:
    with_head = DINOV3 | {"engines": {"dinov3": {"features": {"head": "/heads/mine"}}}}
    assert optional(with_optional_stages(load_profile("gpu-24gb", with_head), readable)) == {}


@pytest.mark.parametrize("name", ["cpu", "mini", "gpu-24gb", "gpu-2x24gb", "gpu-80gb"])
def test_every_stage_of_a_profile_as_shipped_is_required(name: str) -> None:
    profile = load_profile(name)
    assert with_optional_stages(profile, readable) == profile


def test_a_stage_without_access_to_its_model_is_not_required() -> None:
    def gated(engine: EngineSpec) -> str | None:
        return "it is gated" if engine.model.startswith("facebook/") else None

    with_head = DINOV3 | {"engines": {"dinov3": {"features": {"head": "/heads/mine"}}}}
    assert optional(with_optional_stages(load_profile("gpu-24gb", with_head), gated)) == {"backbone": "it is gated"}


def test_one_stage_stays_required() -> None:
    alone = load_profile("mini", {"stages": dict.fromkeys(("signs", "vlm", "reasoner", "video"))})
    assert with_optional_stages(alone, lambda engine: "it is gated") == alone
