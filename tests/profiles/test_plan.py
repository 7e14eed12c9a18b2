"""Placement of engines on GPUs, in any order in which Ray places them."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles import plan as module
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.gpu_memory import GpuMemoryNeed
from roadwork_serve.profiles.plan import limit_replicas, plan_placement
from roadwork_serve.profiles.profile import Profile

STAGES = ("vlm", "reasoner", "video")


def profile(*shares: float, **fields: dict[str, Any]) -> Profile:
    """Return a profile of engines a, b, c with these GPU shares. fields: further fields, by engine."""
    engines = {
        name: {"backend": "transformers", "model": name, "device": "cuda", "num_gpus": share} | fields.get(name, {})
        for name, share in zip("abc", shares, strict=False)
    }
    stages = {stage: {"engine": name} for stage, name in zip(STAGES, engines, strict=False)}
    return Profile.model_validate({"name": "p", "policy": "mini", "engines": engines, "stages": stages})


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return the GiB of each engine, 1 by default, for tests to change."""
    gib: dict[str, float] = {}

    def needs_of(profile: Profile, names: tuple[str, ...], gpu_gib: float) -> tuple[GpuMemoryNeed, ...]:
        return tuple(GpuMemoryNeed(name, name, 0, gib.get(name, 1.0), 0, 0, context=0) for name in names)

    monkeypatch.setattr(module, "gpu_memory_needs", needs_of)
    return gib


def test_engines_are_placed_on_the_first_gpu_with_enough_share(sizes: dict[str, float]) -> None:
    found = plan_placement(profile(0.51, 0.51, 0.4), [24, 24])
    assert [[need.engine for need in gpu.needs] for gpu in found.gpus] == [["a", "c"], ["b"]]
    assert [gpu.share for gpu in found.gpus] == [0.91, 0.51]
    assert [gpu.free for gpu in found.gpus] == [22, 23]


def test_engines_that_can_share_a_gpu_must_fit_it(sizes: dict[str, float]) -> None:
    sizes |= {"a": 14, "b": 14, "c": 9}
    with pytest.raises(
        ConfigError,
        match=r"a GPU of 22 GiB is 1\.0 GiB short when Ray places c \(9\.0\) beside [ab]: shrink engines\.[ab], "
        r"which needs 14\.0 GiB .* raise num_gpus so that they cannot share a GPU",
    ):
        plan_placement(profile(0.51, 0.51, 0.4), [22, 22])
    sizes["c"] = 8
    assert plan_placement(profile(0.51, 0.51, 0.4), [22, 22]).fullest[0].free == 0
    with pytest.raises(ConfigError, match=r"a GPU of 10 GiB is 4\.0 GiB short: shrink engines\.a, which needs 14\.0"):
        plan_placement(profile(1.0), [10])


def test_a_placement_order_that_can_get_stuck_is_rejected(sizes: dict[str, float]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"engines\.a\.num_gpus is 0\.6 and no GPU has that much left once Ray has placed [bc] on GPU 0, "
        r"[bc] on GPU 1: lower it, or that of the others, or add a GPU",
    ):
        plan_placement(profile(0.6, 0.5, 0.5), [24, 24])  # it fits if placed first, but maybe not after a crash
    plan_placement(profile(0.5, 0.5, 0.5), [24, 24])
    with pytest.raises(ConfigError, match=r"engines\.b\.num_gpus is 0\.8 .* placed a on GPU 0"):
        plan_placement(profile(0.5, 0.8), [24])


def test_shares_may_fill_a_gpu_exactly(sizes: dict[str, float]) -> None:
    assert plan_placement(profile(0.65, 0.25, 0.1), [24]).gpus[0].share == 1


def test_max_replicas_follow_from_the_free_share(sizes: dict[str, float]) -> None:
    wide = profile(0.65, 0.25, 0.1, a={"max_replicas": 4}, b={"max_replicas": 2})
    assert plan_placement(wide, [24]).max_replicas == {"a": 1, "b": 1, "c": 1}
    assert plan_placement(wide, [24, 24]).max_replicas == {"a": 2, "b": 2, "c": 1}
    assert [
        engine.max_replicas for engine in limit_replicas(wide, plan_placement(wide, [24]).max_replicas).engines.values()
    ] == [1, 1, None]


def test_an_extra_replica_must_not_prevent_others_from_starting(sizes: dict[str, float]) -> None:
    greedy = profile(0.5, 0.4, b={"max_replicas": 4})
    assert plan_placement(greedy, [24]).max_replicas["b"] == 1  # two of them would leave 0.2
    assert plan_placement(greedy, [24, 24]).max_replicas["b"] == 3  # four would leave 0.2 on each


def test_an_extra_replica_must_fit_the_memory(sizes: dict[str, float]) -> None:
    sizes["a"] = 10
    assert plan_placement(profile(0.1, a={"max_replicas": 9}), [24]).max_replicas == {"a": 2}


def test_a_time_slice_group_reserves_one_share(sizes: dict[str, float]) -> None:
    sliced = {"time_slice_group": "gpu"}
    found = plan_placement(profile(0.6, 0.6, 0.4, a=sliced, b=sliced), [24])
    assert found.gpus[0].share == 1 and found.max_replicas == {"a": 1, "b": 1, "c": 1}


def test_an_engine_on_several_gpus_needs_them_empty(sizes: dict[str, float]) -> None:
    spec = {"backend": "vllm", "vllm": {"kv_cache_gib": 2, "arguments": {"tensor_parallel_size": 2}}}
    assert [gpu.share for gpu in plan_placement(profile(2, a=spec), [24, 24]).gpus] == [1, 1]
    with pytest.raises(ConfigError, match=r"engines\.a\.num_gpus is 2 .* placed b on GPU 0"):
        plan_placement(profile(2, 0.1, a=spec), [24, 24])
    with pytest.raises(ConfigError, match=r"set vllm\.arguments\.tensor_parallel_size to 2, or set num_gpus to 1"):
        plan_placement(profile(2), [24, 24])


def test_engines_on_the_cpu_need_no_gpu() -> None:
    on_cpu = EngineSpec(backend="transformers", model="bundled:vlm")
    stages = {"vlm": {"engine": "it"}}
    mine = Profile.model_validate({"name": "p", "policy": "mini", "engines": {"it": on_cpu}, "stages": stages})
    assert plan_placement(mine, []).max_replicas == {}
    assert plan_placement(mine, [24]).gpus[0].free == 24


def test_engines_are_on_the_gpus_they_name(sizes: dict[str, float]) -> None:
    sizes |= {"a": 14, "b": 14, "c": 9}
    there = profile(0.6, 0.7, 0.3, a={"gpu": 0}, b={"gpu": 1}, c={"gpu": 1})
    found = plan_placement(there, [14, 24])
    assert [[need.engine for need in gpu.needs] for gpu in found.gpus] == [["a"], ["b", "c"]]
    assert [gpu.share for gpu in found.gpus] == [0.6, 1.0] and found.fullest == ()
    assert found.max_replicas == {"a": 1, "b": 1, "c": 1}
    with pytest.raises(
        ConfigError,
        match=r"GPU 1 with 22 GiB is 1\.0 GiB short with c \(9\.0\) beside b: shrink engines\.b, .* or name another",
    ):
        plan_placement(there, [24, 22])
    with pytest.raises(ConfigError, match=r"engines\.b\.gpu is 1, and the GPUs are numbered from 0 to 0"):
        plan_placement(there, [24])
    with pytest.raises(ConfigError, match=r"engines\.a\.gpu is 0, and there is no GPU: set --gpu GIB"):
        plan_placement(there, [])
    crowded = profile(0.6, 0.7, 0.4, a={"gpu": 0}, b={"gpu": 1}, c={"gpu": 1})
    with pytest.raises(ConfigError, match=r"the engines on GPU 1 \(b, c\) reserve 1\.1 of it: lower their num_gpus"):
        plan_placement(crowded, [24, 24])


def test_replicas_of_a_named_gpu_share_it(sizes: dict[str, float]) -> None:
    sizes["a"] = 10
    twice = profile(0.5, a={"gpu": 0, "replicas": 2})
    assert plan_placement(twice, [22]).gpus[0].free == 2
    with pytest.raises(ConfigError, match="short"):
        plan_placement(twice, [19])


def test_a_gpu_profile_requires_gpu_sizes(sizes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="profile p needs GPUs and its gpus_gib is empty: set --gpu GIB"):
        plan_placement(profile(0.5), [])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.34, 0.5, 0.51, 0.9, 1.0]), st.integers(1, 9)), min_size=1,
             max_size=3),
    st.lists(st.integers(6, 14), min_size=1, max_size=2),
)  # fmt: skip
def test_a_plan_is_accepted_if_every_placement_order_works(engines: list[tuple[float, int]], gpus: list[int]) -> None:
    gib = {name: size for name, (_, size) in zip("abc", engines, strict=False)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            module, "gpu_memory_needs", lambda _, names, gpu: (GpuMemoryNeed(names[0], "", 0, gib[names[0]], 0, 0, 0),)
        )
        try:
            plan_placement(profile(*(share for share, _ in engines)), gpus)
            fits = True
        except ConfigError:
            fits = False
    assert fits == _every_order_works([(round(100 * share), size) for share, size in engines], gpus)


def _every_order_works(engines: list[tuple[int, int]], gpus: list[int]) -> bool:
    """Try every order, and in each every GPU that has the share left."""

    def works(left: list[tuple[int, int]], free: list[tuple[int, int]]) -> bool:
        if not left:
            return True
        (share, size), *rest = left
        possible = [at for at, (room, _) in enumerate(free) if room >= share]
        return bool(possible) and all(
            free[at][1] >= size
            and works(rest, [(r - share, g - size) if i == at else (r, g) for i, (r, g) in enumerate(free)])
            for at in possible
        )

    return all(works(list(order), [(100, gib) for gib in gpus]) for order in itertools.permutations(engines))
