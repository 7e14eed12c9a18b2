"""The GPU profiles fit the GPUs they are made for, and are consistent."""

from typing import Any

import pytest

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.gpu_memory import gpu_memory_needs
from roadwork_serve.profiles.load import load_policy_mapping, load_profile
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.profile import STAGES, Profile

NAMES = ("gpu-24gb", "gpu-2x24gb", "gpu-80gb")
WHOLE_24_GIB = 23.6  # as CUDA reports for a 3090 or 4090; 22.0 for an L4 or A10G


@pytest.fixture(params=NAMES)
def profile(request: pytest.FixtureRequest) -> Profile:
    return load_profile(request.param)


def test_it_fits_the_gpus_it_is_made_for(profile: Profile) -> None:
    found = plan_placement(profile, profile.gpus_gib)
    assert all(gpu.free > 0 for gpu in found.fullest)
    assert set(found.max_replicas.values()) == {1}  # those gpus are full
    larger = plan_placement(profile, [gib + 2 for gib in profile.gpus_gib])
    assert larger.max_replicas == found.max_replicas


def test_every_stage_runs_on_a_gpu(profile: Profile) -> None:
    assert set(profile.stages) == set(STAGES) - {"closeup"}
    assert all(profile.engine_of(stage).device == "cuda" for stage in profile.stages)
    assert not any(engine.trust_remote_code or engine.miniature for engine in profile.engines.values())
    policy = Policy.parse(load_policy_mapping(profile.policy))
    assert {step.stage for step in policy.photo + policy.clip} == set(profile.stages)


def test_kv_caches_fit_typical_prompts(profile: Profile) -> None:
    """Tokens of a photo with its question, with a thought and with a clip: 330, 620 and 780."""
    usual = {"vlm": 330, "reasoner": 620, "video": 780}
    for name, users in profile.users().items():
        engine = profile.engines[name]
        if engine.backend == "vllm":
            tokens = sum(usual[stage] * spec.max_batch * spec.slots for stage, spec in users.items())
            assert tokens * 144 / 2**20 <= (engine.vllm.kv_cache_gib or 0), name
            assert all(usual[stage] <= engine.language.context_tokens for stage in users)


def test_two_gpus_separate_the_large_models() -> None:
    large = load_profile("gpu-2x24gb").engines
    assert large["qwen3-vl"].num_gpus + large["qwen3-vl-thinking"].num_gpus > 1


def test_a_share_of_the_large_gpu_is_a_share_of_its_memory() -> None:
    profile = load_profile("gpu-80gb")
    for names in profile.processes():
        assert (
            sum(need.total for need in gpu_memory_needs(profile, names, 79.0))
            <= 79 * profile.engines[names[0]].num_gpus
        )


@pytest.mark.parametrize(("name", "gpus"), [("gpu-24gb", (22.0, 22.0)), ("gpu-80gb", (79.0, 79.0))])
def test_a_second_gpu_is_used(name: str, gpus: tuple[float, ...]) -> None:
    assert {plan_placement(load_profile(name), gpus).max_replicas[engine] for engine in ("dinov3", "qwen3-vl")} == {2}


def test_the_error_of_a_profile_that_is_too_large_names_the_engine_to_shrink() -> None:
    with pytest.raises(ConfigError, match=r"a GPU of 24 GiB is .* GiB short .*: shrink engines\.qwen3-vl"):
        plan_placement(load_profile("gpu-80gb"), [24])
    with pytest.raises(ConfigError, match=r"a GPU of 22 GiB .* molmo2 .*: shrink engines\.qwen3-vl"):
        plan_placement(load_profile("gpu-2x24gb"), [22, 22])
    with pytest.raises(ConfigError, match=r"engines\.qwen3-vl\.num_gpus is 0\.51 and no GPU has that much left"):
        plan_placement(load_profile("gpu-2x24gb"), [WHOLE_24_GIB])


def test_time_slicing_makes_room_on_smaller_gpus() -> None:
    """The comment in gpu-2x24gb claims this."""
    sliced = {"time_slice_group": "second", "num_gpus": 0.51}
    changed = load_profile("gpu-2x24gb", {"engines": {"qwen3-vl-thinking": sliced, "molmo2": sliced}})
    assert plan_placement(changed, [22, 22]).fullest[0].free > 2


def test_four_bits_make_room_for_molmo() -> None:
    """The comment in gpu-24gb claims this."""
    molmo = load_profile("gpu-2x24gb").engines["molmo2"].model_dump(exclude_defaults=True)
    smaller: dict[str, Any] = {"vllm": {"kv_cache_gib": 2}, "num_gpus": 0.55, "max_replicas": None}
    of_four_bits = {"model": "somebody/Qwen3-VL-8B-Instruct-AWQ", "quantization": "awq"}
    video = {"stages": {"video": {"engine": "molmo2", "options": None}}}
    four_bits = load_profile("gpu-24gb", {"engines": {"qwen3-vl": smaller | of_four_bits, "molmo2": molmo}} | video)
    assert plan_placement(four_bits, [WHOLE_24_GIB]).fullest[0].free > 0
    eight_bits = load_profile("gpu-24gb", {"engines": {"qwen3-vl": smaller, "molmo2": molmo}} | video)
    with pytest.raises(ConfigError, match="short"):
        plan_placement(eight_bits, [WHOLE_24_GIB])
