"""Desired replicas, the downscale delay and placement."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.autoscaling.replicas import (
    DEFAULT_SCALING,
    Demand,
    ScalableEngine,
    ScalingSettings,
    apply_downscale_delay,
    desired_replicas,
    pack_shares,
    place_replicas,
    scaling_settings,
)

VLM, READER, BACKBONE = ScalableEngine(0.65, 16, 1, 6), ScalableEngine(0.1, 1, 1, 8), ScalableEngine(0.25, 1, 1, 4)


@pytest.mark.parametrize(
    ("load", "backlog_s", "replicas"),
    [(0.0, 0.0, 1), (0.69, 0.0, 1), (0.71, 0.0, 2), (1.39, 0.0, 2), (2.9, 0.0, 5), (50.0, 0.0, 6), (0.5, 20.0, 3)],
)
def test_desired_replicas_follow_load_and_backlog(load: float, backlog_s: float, replicas: int):
    assert desired_replicas(VLM, Demand(load, backlog_s)) == replicas


def test_few_slots_get_more_headroom_than_many():
    settings = ScalingSettings(target_utilization=1.0, headroom_sigmas=2.0)
    one, many = ScalableEngine(gpus=0.1, slots=1, max_replicas=99), ScalableEngine(0.1, slots=100, max_replicas=99)
    assert desired_replicas(one, Demand(4.0), settings) == 8
    assert desired_replicas(many, Demand(4.0), settings) == 5


def test_engines_scale_to_zero_only_if_allowed_and_idle():
    quiet = DEFAULT_SCALING.scale_to_zero_after_s
    sleeper = ScalableEngine(0.65, 16, 0, 2, scale_to_zero=True)
    assert desired_replicas(VLM, Demand(0.0, 0.0, quiet)) == 1
    assert desired_replicas(sleeper, Demand(0.0, 0.0, quiet)) == 0
    assert desired_replicas(sleeper, Demand(0.0, 0.0, quiet - 1)) == 1
    assert desired_replicas(sleeper, Demand(0.0, 1.0, quiet)) == 1


def test_replicas_stop_after_the_downscale_delay():
    peaks: dict[str, list[tuple[float, int]]] = {}
    seen = []
    for now_s, want in [(0, 1), (10, 4), (20, 2), (189, 2), (191, 2), (192, 3), (300, 1), (371, 1), (373, 1)]:
        most, peaks = apply_downscale_delay({"vlm": want}, peaks, now_s, ScalingSettings(downscale_delay_s=180))
        seen.append(most["vlm"])
    assert seen == [1, 4, 4, 4, 2, 3, 3, 3, 1]


def test_scaling_to_zero_is_not_delayed():
    most, peaks = apply_downscale_delay({"vlm": 0}, {"vlm": [(0.0, 3)]}, 1.0)
    assert most == {"vlm": 0}
    assert apply_downscale_delay({"vlm": 1}, peaks, 2.0)[0] == {"vlm": 1}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 20))
def test_the_delay_returns_the_maximum_of_its_window(wants: list[int], hold: int):
    peaks: dict[str, list[tuple[float, int]]] = {}
    for now, want in enumerate(wants):
        most, peaks = apply_downscale_delay(
            {"a": want}, peaks, float(now), ScalingSettings(downscale_delay_s=float(hold))
        )
        awake = list(itertools.takewhile(bool, reversed(wants[max(0, now - hold + 1) : now + 1])))
        assert most["a"] == (max(awake) if awake else 0)
        assert len(peaks["a"]) <= 7, "what can never count again is forgotten"


def test_placement_order_is_minimum_then_running_then_largest_shortfall():
    engines = {"vlm": VLM, "signs": READER, "backbone": BACKBONE}
    assert place_replicas({"vlm": 3, "signs": 1, "backbone": 1}, engines, [1.0, 1.0], {}) == {
        "vlm": 2, "signs": 1, "backbone": 1,
    }  # fmt: skip
    crowded = {"vlm": 2, "signs": 8, "backbone": 4}
    assert place_replicas(crowded, engines, [1.0, 1.0], {"vlm": 2})["vlm"] == 2, "the VLM keeps what it runs and needs"
    assert place_replicas(crowded, engines, [1.0], {}) == {"vlm": 1, "signs": 1, "backbone": 1}


def test_an_engine_without_a_gpu_always_fits():
    assert place_replicas({"cpu": 5}, {"cpu": ScalableEngine(0.0, max_replicas=5)}, [], {}) == {"cpu": 5}


shares = st.sampled_from([0.05, 0.1, 0.25, 0.255, 0.3, 0.5, 0.65, 1.0, 2.0])


@given(
    st.dictionaries(st.sampled_from("abcde"), st.tuples(shares, st.integers(1, 2), st.integers(0, 4)), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 5)),
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 5)),
    st.integers(1, 6),
)
def test_placed_replicas_fit_on_the_gpus(shapes, wants, running, count: int):
    engines = {
        name: ScalableEngine(gpus, min_replicas=least, max_replicas=least + more)
        for name, (gpus, least, more) in shapes.items()
    }
    wants = {
        name: max(engine.min_replicas, min(engine.max_replicas, wants.get(name, 1))) for name, engine in engines.items()
    }
    gpus = [1.0] * count
    given_ = place_replicas(wants, engines, gpus, running)
    least = [engine.gpus for engine in engines.values() for _ in range(engine.min_replicas)]
    assert all(engines[name].min_replicas <= given_[name] <= wants[name] for name in engines)
    if pack_shares(least, gpus):
        assert pack_shares([engines[name].gpus for name, n in given_.items() for _ in range(n)], gpus)
        for name in engines:  # and nothing is left out that would have found one
            more = [engines[each].gpus for each, n in given_.items() for _ in range(n)] + [engines[name].gpus]
            assert given_[name] == wants[name] or not pack_shares(more, gpus)


@given(st.lists(shares, max_size=7), st.integers(1, 4))
def test_packed_shares_fit_on_the_gpus(wanted_shares: list[float], count: int):
    if pack_shares(wanted_shares, [1.0] * count):
        assert _can_pack(sorted(wanted_shares, reverse=True), [1.0] * count)
    elif not any(share > 1 for share in wanted_shares) and sum(wanted_shares) <= count / 2:
        raise AssertionError("half full, every share of at most a whole GPU fits")


def _can_pack(left: list[float], room: list[float]) -> bool:
    if not left:
        return True
    share, rest = left[0], left[1:]
    if share > 1:
        whole = [at for at, free in enumerate(room) if free >= 1][: int(share)]
        return len(whole) == int(share) and _can_pack(rest, [0.0 if at in whole else f for at, f in enumerate(room)])
    return any(
        _can_pack(rest, [*room[:at], free - share, *room[at + 1 :]])
        for at, free in enumerate(room)
        if free >= share - 1e-9
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"speed": 1},
            "speed is not a scaling setting; use one of target_utilization, headroom_sigmas, drain_s, ",
        ),
        ({"downscale_delay_s": -1}, "downscale_delay_s is -1; write a number of 0 or more"),
        ({"downscale_delay_s": "long"}, "downscale_delay_s is 'long'"),
        ({"headroom_sigmas": float("nan")}, "headroom_sigmas is nan"),
        ({"downscale_delay_s": True}, "downscale_delay_s is True"),
        ({"target_utilization": 1.2}, "target_utilization must be above 0 and at most 1"),
        ({"drain_s": 0}, "drain_s above 0"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        scaling_settings(settings)


def test_missing_settings_have_defaults():
    assert scaling_settings({"downscale_delay_s": 60}) == ScalingSettings(downscale_delay_s=60)
