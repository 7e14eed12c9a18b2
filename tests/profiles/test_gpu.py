"""The GPU profiles fit the GPUs they are made for, and are consistent."""

from typing import Any

import pytest

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.gpu_memory import gpu_memory_need, gpu_memory_needs
from roadwork_serve.profiles.load import load_policy_mapping, load_profile
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import ROLES, STAGES

NAMES = ("gpu-24gb", "gpu-2x24gb", "gpu-80gb", "gpu-24gb-qwen35", "gpu-2x24gb-qwen35")
MODELS_ON_GPUS = {"media": {"thumb_side": 256}}
DINOV3 = {"engine": "dinov3", "max_batch": 32}
WHOLE_24_GIB = 23.6  # as CUDA reports for a 3090 or 4090; 22.0 for an L4 or A10G


@pytest.fixture(params=NAMES)
def profile(request: pytest.FixtureRequest) -> Profile:
    return load_profile(request.param)


def test_it_fits_the_gpus_it_is_made_for(profile: Profile) -> None:
    found = plan_placement(profile, profile.gpus_gib)
    assert all(gpu.free > 0 for gpu in (*found.gpus, *found.fullest))
    assert set(found.max_replicas.values()) == {1}  # the shares leave no room for a second language model
    larger = plan_placement(profile, [gib + 2 for gib in profile.gpus_gib])
    assert larger.max_replicas == found.max_replicas


def test_it_fits_with_its_other_engines_too(profile: Profile) -> None:
    """A comment in each profile claims this."""
    one = profile.name.startswith("gpu-2x24gb")
    signs = {"engine": "florence-2", "max_batch": 1 if one else 2} | ({"options": {"frames_read": 2}} if one else {})
    theirs = load_profile(profile.name.removesuffix("-qwen35")).engines
    engines = {name: theirs[name].model_dump(exclude_defaults=True) for name in ("dinov3", "florence-2")}
    stages = {"backbone": DINOV3, "signs": signs}
    chosen = load_profile(profile.name, MODELS_ON_GPUS | {"engines": engines, "stages": stages})
    found = plan_placement(chosen, profile.gpus_gib)
    assert all(gpu.free > 0 for gpu in (*found.gpus, *found.fullest))


def test_language_models_run_on_a_gpu_and_the_first_stages_need_no_download(profile: Profile) -> None:
    assert set(profile.stages) == set(STAGES) - {"closeup"}
    for stage in profile.stages:
        engine = profile.engine_of(stage)
        assert (engine.device == "cuda") == (ROLES[stage] == "language"), stage
    assert profile.engine_of("backbone") == load_profile("cpu").engine_of("backbone").model_copy(
        update={"num_cpus": 0.5, "replicas": 2}
    ), "the heads belong to these weights and this size of thumbnails"
    assert not any(engine.trust_remote_code or engine.miniature for engine in profile.engines.values())
    policy = Policy.parse(load_policy_mapping(profile.policy))
    assert {step.stage for step in policy.photo + policy.clip} == set(profile.stages)


def test_kv_caches_fit_typical_prompts(profile: Profile) -> None:
    """Tokens of a photo with its question, the same with its reasoning, and a clip: 330, more, and 780."""
    usual = {"vlm": 330, "reasoner": 340 + profile.stages["reasoner"].options["reasoning_tokens"], "video": 780}
    for name, users in profile.users().items():
        engine = profile.engines[name]
        if "Qwen3.5" in engine.model:
            assert (gpu_memory_need(name, engine, users, profile.gpus_gib[0]).cached_prompts or 0) >= 25
        elif engine.backend == "vllm":
            tokens = sum(usual[stage] * spec.max_batch * spec.slots for stage, spec in users.items())
            assert tokens * 144 / 2**20 <= (engine.vllm.kv_cache_gib or 0), name
            assert all(usual[stage] <= engine.language.context_tokens for stage in users)


def test_two_gpus_separate_the_large_models() -> None:
    found = plan_placement(load_profile("gpu-2x24gb"), [22.0, 22.0])
    assert [{need.engine for need in gpu.needs} for gpu in found.gpus] == [
        {"qwen3-vl"},
        {"qwen3-vl-thinking", "molmo2"},
    ]


def test_a_share_of_the_large_gpu_is_a_share_of_its_memory() -> None:
    profile = load_profile("gpu-80gb")
    for names in profile.processes():
        if profile.engines[names[0]].device == "cpu":
            continue
        assert (
            sum(need.total for need in gpu_memory_needs(profile, names, 79.0))
            <= 79 * profile.engines[names[0]].num_gpus
        )


@pytest.mark.parametrize(("name", "gpus"), [("gpu-24gb", (22.0, 22.0)), ("gpu-80gb", (79.0, 79.0))])
def test_a_second_gpu_is_used(name: str, gpus: tuple[float, ...]) -> None:
    assert {plan_placement(load_profile(name), gpus).max_replicas[engine] for engine in ("qwen3-vl",)} == {2}


def test_the_error_of_a_profile_that_is_too_large_names_the_engine_to_shrink() -> None:
    with pytest.raises(ConfigError, match=r"a GPU of 24 GiB is .* GiB short .*: shrink engines\.qwen3-vl"):
        plan_placement(load_profile("gpu-80gb"), [24])
    with pytest.raises(
        ConfigError, match=r"GPU 1 with 16 GiB .* with molmo2 .*: shrink engines\.qwen3-vl-thinking.*name another GPU"
    ):
        plan_placement(load_profile("gpu-2x24gb"), [22, 16])
    with pytest.raises(ConfigError, match=r"\.gpu is 1, and the GPUs are numbered from 0 to 0"):
        plan_placement(load_profile("gpu-2x24gb"), [WHOLE_24_GIB])


def test_molmo_fits_beside_one_language_model() -> None:
    """The comment in gpu-24gb claims this."""
    molmo = load_profile("gpu-2x24gb").engines["molmo2"].model_dump(exclude_defaults=True, exclude={"gpu"})
    video = {"video": {"engine": "molmo2", "options": None}}
    smaller: dict[str, Any] = {"vllm": {"kv_cache_gib": 2}, "num_gpus": 0.45, "max_replicas": None}
    four_bits = smaller | {
        "model": "somebody/Qwen3-VL-8B-Instruct-AWQ",
        "quantization": "int4",
        "quantized_models": None,
    }

    def free(qwen: dict[str, Any], **stages: dict[str, Any]) -> float:
        changes = {"engines": {"qwen3-vl": qwen, "molmo2": molmo}, "stages": video | stages} | MODELS_ON_GPUS
        return plan_placement(load_profile("gpu-24gb", changes), [22.0]).fullest[0].free

    assert free(smaller) > 0
    with pytest.raises(ConfigError, match="short"):
        free(smaller, backbone=DINOV3)
    assert free(four_bits, backbone=DINOV3) > 0
