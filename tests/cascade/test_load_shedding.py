import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.load_shedding import CALM_S, LoadShedder
from roadwork_serve.cascade.policy import DegradationLevel, Policy, Step
from roadwork_serve.errors import ConfigError
from tests.cascade import clock
from tests.cascade.clock import Clock
from tests.cascade.strategies import policies, shares

STEPS = (Step("backbone", 0.1, 0.9), Step("vlm", 0.5, 0.5))
POLICY = Policy("p", STEPS, STEPS, degradation_levels=(DegradationLevel(200, 0.5), DegradationLevel(1000, 0.1)))


def band(policy: Policy) -> tuple[float, float]:
    return policy.photo[0].low, policy.photo[0].high


def test_bands_narrow_at_once_as_the_wait_grows():
    box = LoadShedder(POLICY)
    assert box.shift(0.1) is POLICY
    assert band(box.shift(0.2)) == pytest.approx((0.3, 0.7))
    assert band(box.shift(5.0)) == pytest.approx((0.46, 0.54))
    assert box.degradation_level == 2
    assert box.shift(5.0).version == "p"


def test_it_shifts_down_step_by_step_once_it_has_been_calm_for_a_while():
    async def main(time: Clock) -> None:
        box = LoadShedder(POLICY)
        box.shift(2.0)
        time.now += CALM_S + 1
        box.shift(0.6)
        assert box.degradation_level == 2, "0.6 s is less than the gear begins at, but not by half"
        time.now += CALM_S - 1
        box.shift(0.4)
        assert box.degradation_level == 2, "it is not calm for long enough"
        time.now += 1
        box.shift(0.4)
        assert box.degradation_level == 1
        time.now += CALM_S
        box.shift(0.05)
        assert box.degradation_level == 0

    clock.run(main)


def test_a_wait_that_swings_does_not_make_it_swing():
    async def main(time: Clock) -> None:
        box = LoadShedder(POLICY)
        shifts = 0
        for tick in range(200):
            before = box.degradation_level
            box.shift(0.25 if tick % 2 else 0.12)
            shifts += box.degradation_level != before
            time.now += 0.5
        assert shifts == 1

    clock.run(main)


def test_after_a_long_silence_it_is_calm():
    async def main(time: Clock) -> None:
        box = LoadShedder(POLICY)
        box.shift(2.0)
        time.now += 60
        assert box.shift(0.0) is POLICY

    clock.run(main)


def test_without_gears_it_never_shifts():
    box = LoadShedder(Policy("p", STEPS, STEPS))
    box.shift(1000.0)
    assert box.degradation_level == 0


@given(policies(), shares)
def test_a_narrowed_policy_leaves_wherever_the_policy_leaves_and_labels_alike(policy, keep):
    narrow = policy.narrowed(keep)
    for step, narrower in zip(policy.photo + policy.clip, narrow.photo + narrow.clip, strict=True):
        assert step.low <= narrower.low + 1e-12
        assert narrower.low <= policy.decision_threshold <= narrower.high
        assert narrower.high <= step.high + 1e-12
    assert (narrow.version, narrow.decision_threshold) == (policy.version, policy.decision_threshold)


def mapping(*degradation_levels: object) -> dict[str, object]:
    steps = [{"stage": "backbone", "exit": [0.1, 0.9]}]
    return {"version": "p", "photo": steps, "clip": steps, "degradation_levels": list(degradation_levels)}


def test_gears_are_one_line_of_a_policy_and_survive_being_written_down():
    policy = Policy.from_mapping(mapping({"queue_wait_ms": 250, "keep": 0.5}, {"queue_wait_ms": 1000, "keep": 0}))
    assert policy.degradation_levels == (DegradationLevel(250, 0.5), DegradationLevel(1000, 0))
    assert Policy.from_mapping(policy.to_mapping()) == policy


@pytest.mark.parametrize(
    ("degradation_levels", "told"),
    [
        ([{"queue_wait_ms": 250}], "keep is missing"),
        ([{"queue_wait_ms": 250, "keep": 1}], r"gears\[0\].keep: write less than the 1"),
        ([{"queue_wait_ms": 250, "keep": 0.5}, {"queue_wait_ms": 250, "keep": 0.1}], "write more than the 250"),
        ([{"queue_wait_ms": 250, "keep": 0.5}, {"queue_wait_ms": 500, "keep": 0.5}], "write less than the 0.5"),
        ([{"queue_wait_ms": 0, "keep": 0.5}], "1 or more"),
        (["fast"], "is not a mapping"),
    ],
)
def test_gears_that_make_no_sense_are_refused(degradation_levels, told):
    with pytest.raises(ConfigError, match=told):
        Policy.from_mapping(mapping(*degradation_levels))


@given(st.lists(st.floats(0, 5), max_size=30))
def test_no_gear_is_lower_than_the_wait_calls_for(waits):
    box = LoadShedder(POLICY)
    for wait_s in waits:
        box.shift(wait_s)
        assert box.degradation_level >= sum(
            wait_s * 1000 >= degradation_level.queue_wait_ms for degradation_level in POLICY.degradation_levels
        )
