"""How many replicas an engine is worth, and which of them have a place."""

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
def test_an_engine_is_worth_what_its_load_and_its_queue_need(load: float, backlog_s: float, replicas: int):
    assert desired_replicas(VLM, Demand(load, backlog_s)) == replicas


def test_few_servers_are_kept_freer_than_many():
    settings = ScalingSettings(utilisation=1.0, surges=2.0)
    one, many = ScalableEngine(0.1, slots=1, most=99), ScalableEngine(0.1, slots=100, most=99)
    assert desired_replicas(one, Demand(4.0), settings) == 8
    assert desired_replicas(many, Demand(4.0), settings) == 5


def test_only_what_may_sleep_sleeps_and_only_when_nothing_waits():
    quiet = DEFAULT_SCALING.sleep_s
    sleeper = ScalableEngine(0.65, 16, 0, 2, scale_to_zero=True)
    assert desired_replicas(VLM, Demand(0.0, 0.0, quiet)) == 1
    assert desired_replicas(sleeper, Demand(0.0, 0.0, quiet)) == 0
    assert desired_replicas(sleeper, Demand(0.0, 0.0, quiet - 1)) == 1
    assert desired_replicas(sleeper, Demand(0.0, 1.0, quiet)) == 1


def test_replicas_go_after_the_need_has_been_less_for_long_enough():
    peaks: dict[str, list[tuple[float, int]]] = {}
    seen = []
    for now_s, want in [(0, 1), (10, 4), (20, 2), (189, 2), (191, 2), (192, 3), (300, 1), (371, 1), (373, 1)]:
        most, peaks = apply_downscale_delay({"vlm": want}, peaks, now_s, ScalingSettings(hold_s=180))
        seen.append(most["vlm"])
    assert seen == [1, 4, 4, 4, 2, 3, 3, 3, 1]


def test_what_sleeps_has_waited_long_enough():
    most, peaks = apply_downscale_delay({"vlm": 0}, {"vlm": [(0.0, 3)]}, 1.0)
    assert most == {"vlm": 0}
    assert apply_downscale_delay({"vlm": 1}, peaks, 2.0)[0] == {"vlm": 1}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 20))
def test_what_is_held_is_the_most_of_the_window_since_it_slept(wants: list[int], hold: int):
    peaks: dict[str, list[tuple[float, int]]] = {}
    for now, want in enumerate(wants):
        most, peaks = apply_downscale_delay({"a": want}, peaks, float(now), ScalingSettings(hold_s=float(hold)))
        awake = list(itertools.takewhile(bool, reversed(wants[max(0, now - hold + 1) : now + 1])))
        assert most["a"] == (max(awake) if awake else 0)
        assert len(peaks["a"]) <= 7, "what can never count again is forgotten"


def test_places_go_to_the_least_then_to_those_that_run_then_to_the_shortest():
    engines = {"vlm": VLM, "signs": READER, "backbone": BACKBONE}
    assert place_replicas({"vlm": 3, "signs": 1, "backbone": 1}, engines, [1.0, 1.0], {}) == {
        "vlm": 2, "signs": 1, "backbone": 1,
    }  # fmt: skip
    crowded = {"vlm": 2, "signs": 8, "backbone": 4}
    assert place_replicas(crowded, engines, [1.0, 1.0], {"vlm": 2})["vlm"] == 2, "the VLM keeps what it runs and needs"
    assert place_replicas(crowded, engines, [1.0], {}) == {"vlm": 1, "signs": 1, "backbone": 1}


def test_an_engine_without_a_card_needs_no_room():
    assert place_replicas({"cpu": 5}, {"cpu": ScalableEngine(0.0, most=5)}, [], {}) == {"cpu": 5}


shares = st.sampled_from([0.05, 0.1, 0.25, 0.255, 0.3, 0.5, 0.65, 1.0, 2.0])


@given(
    st.dictionaries(st.sampled_from("abcde"), st.tuples(shares, st.integers(1, 2), st.integers(0, 4)), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 5)),
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 5)),
    st.integers(1, 6),
)
def test_no_replica_is_given_that_has_no_place(shapes, wants, running, count: int):
    engines = {
        name: ScalableEngine(gpus, least=least, most=least + more) for name, (gpus, least, more) in shapes.items()
    }
    wants = {name: max(engine.least, min(engine.most, wants.get(name, 1))) for name, engine in engines.items()}
    cards = [1.0] * count
    given_ = place_replicas(wants, engines, cards, running)
    least = [engine.gpus for engine in engines.values() for _ in range(engine.least)]
    assert all(engines[name].least <= given_[name] <= wants[name] for name in engines)
    if pack_shares(least, cards):
        assert pack_shares([engines[name].gpus for name, n in given_.items() for _ in range(n)], cards)
        for name in engines:  # and nothing is left out that would have found one
            more = [engines[each].gpus for each, n in given_.items() for _ in range(n)] + [engines[name].gpus]
            assert given_[name] == wants[name] or not pack_shares(more, cards)


@given(st.lists(shares, max_size=7), st.integers(1, 4))
def test_what_is_packed_lies_on_the_cards(wanted_shares: list[float], count: int):
    if pack_shares(wanted_shares, [1.0] * count):
        assert _can_lie(sorted(wanted_shares, reverse=True), [1.0] * count)
    elif not any(share > 1 for share in wanted_shares) and sum(wanted_shares) <= count / 2:
        raise AssertionError("half full, every share of at most a whole card has found room")


def _can_lie(left: list[float], room: list[float]) -> bool:
    if not left:
        return True
    share, rest = left[0], left[1:]
    if share > 1:
        whole = [at for at, free in enumerate(room) if free >= 1][: int(share)]
        return len(whole) == int(share) and _can_lie(rest, [0.0 if at in whole else f for at, f in enumerate(room)])
    return any(
        _can_lie(rest, [*room[:at], free - share, *room[at + 1 :]])
        for at, free in enumerate(room)
        if free >= share - 1e-9
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"speed": 1}, "speed is no setting of scaling; there are utilisation, surges, drain_s, hold_s, sleep_s"),
        ({"hold_s": -1}, "hold_s is -1; write a number from 0 up"),
        ({"hold_s": "long"}, "hold_s is 'long'"),
        ({"surges": float("nan")}, "surges is nan"),
        ({"hold_s": True}, "hold_s is True"),
        ({"utilisation": 1.2}, "utilisation must be above 0 and at most 1"),
        ({"drain_s": 0}, "drain_s above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, told: str):
    with pytest.raises(ValueError, match=told):
        scaling_settings(settings)


def test_settings_that_are_not_named_are_as_they_ship():
    assert scaling_settings({"hold_s": 60}) == ScalingSettings(hold_s=60)
