import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.load_shedding import CALM_S, LoadShedder
from roadwork_serve.cascade.policy import DegradationLevel, Policy, Step
from roadwork_serve.errors import ConfigError
from tests.cascade import clock
from tests.cascade.clock import Clock
from tests.cascade.strategies import policies, shares

STEPS = (Step(stage="backbone", exit=(0.1, 0.9)), Step(stage="vlm", exit=(0.5, 0.5)))
POLICY = Policy(
    version="p",
    photo=STEPS,
    clip=STEPS,
    degradation_levels=(
        DegradationLevel(queue_wait_ms=200, band_factor=0.5),
        DegradationLevel(queue_wait_ms=1000, band_factor=0.1),
    ),
)


def band(policy: Policy) -> tuple[float, float]:
    return policy.photo[0].low, policy.photo[0].high


def test_bands_narrow_at_once_as_the_wait_grows():
    shedder = LoadShedder(POLICY)
    assert shedder.policy_for(0.1) is POLICY
    assert band(shedder.policy_for(0.2)) == pytest.approx((0.3, 0.7))
    assert band(shedder.policy_for(5.0)) == pytest.approx((0.46, 0.54))
    assert shedder.degradation_level == 2
    assert shedder.policy_for(5.0).version == "p"


def test_the_level_falls_step_by_step_after_a_calm_period():
    async def main(time: Clock) -> None:
        shedder = LoadShedder(POLICY)
        shedder.policy_for(2.0)
        time.now += CALM_S + 1
        shedder.policy_for(0.6)
        assert shedder.degradation_level == 2, "0.6 s is less than the level starts at, but not by half"
        time.now += CALM_S - 1
        shedder.policy_for(0.4)
        assert shedder.degradation_level == 2, "it is not calm for long enough"
        time.now += 1
        shedder.policy_for(0.4)
        assert shedder.degradation_level == 1
        time.now += CALM_S
        shedder.policy_for(0.05)
        assert shedder.degradation_level == 0

    clock.run(main)


def test_an_oscillating_wait_does_not_change_the_level():
    async def main(time: Clock) -> None:
        shedder = LoadShedder(POLICY)
        changes = 0
        for tick in range(200):
            before = shedder.degradation_level
            shedder.policy_for(0.25 if tick % 2 else 0.12)
            changes += shedder.degradation_level != before
            time.now += 0.5
        assert changes == 1

    clock.run(main)


def test_after_a_long_silence_the_level_is_0():
    async def main(time: Clock) -> None:
        shedder = LoadShedder(POLICY)
        shedder.policy_for(2.0)
        time.now += 60
        assert shedder.policy_for(0.0) is POLICY

    clock.run(main)


def test_without_levels_it_stays_at_level_0():
    shedder = LoadShedder(Policy(version="p", photo=STEPS, clip=STEPS))
    shedder.policy_for(1000.0)
    assert shedder.degradation_level == 0


@given(policies(), shares)
def test_narrow_bands_exit_wherever_the_policy_exits_and_keep_the_threshold(policy, factor):
    narrow = policy.narrow_bands(factor)
    for step, narrower in zip(policy.photo + policy.clip, narrow.photo + narrow.clip, strict=True):
        assert step.low <= narrower.low + 1e-12
        assert narrower.low <= policy.decision_threshold <= narrower.high
        assert narrower.high <= step.high + 1e-12
    assert (narrow.version, narrow.decision_threshold) == (policy.version, policy.decision_threshold)


def mapping(*degradation_levels: object) -> dict[str, object]:
    steps = [{"stage": "backbone", "exit": [0.1, 0.9]}]
    return {"version": "p", "photo": steps, "clip": steps, "degradation_levels": list(degradation_levels)}


def test_levels_round_trip_through_a_mapping():
    policy = Policy.parse(
        mapping({"queue_wait_ms": 250, "band_factor": 0.5}, {"queue_wait_ms": 1000, "band_factor": 0})
    )
    assert policy.degradation_levels == (
        DegradationLevel(queue_wait_ms=250, band_factor=0.5),
        DegradationLevel(queue_wait_ms=1000, band_factor=0),
    )
    assert Policy.parse(policy.to_mapping()) == policy


@pytest.mark.parametrize(
    ("degradation_levels", "message"),
    [
        ([{"queue_wait_ms": 250}], "band_factor is missing"),
        ([{"queue_wait_ms": 250, "band_factor": 1}], r"degradation_levels\[0\]\.band_factor: write less than the 1"),
        (
            [{"queue_wait_ms": 250, "band_factor": 0.5}, {"queue_wait_ms": 250, "band_factor": 0.1}],
            "write more than the 250",
        ),
        (
            [{"queue_wait_ms": 250, "band_factor": 0.5}, {"queue_wait_ms": 500, "band_factor": 0.5}],
            "write less than the 0.5",
        ),
        ([{"queue_wait_ms": 0, "band_factor": 0.5}], "queue_wait_ms is 0; it should be greater than or equal to 1"),
        (["fast"], "should be a mapping"),
    ],
)
def test_invalid_levels_are_rejected(degradation_levels, message):
    with pytest.raises(ConfigError, match=message):
        Policy.parse(mapping(*degradation_levels))


@given(st.lists(st.floats(0, 5), max_size=30))
def test_no_level_is_lower_than_the_load_requires(waits):
    shedder = LoadShedder(POLICY)
    for wait_s in waits:
        shedder.policy_for(wait_s)
        assert shedder.degradation_level >= sum(
            wait_s * 1000 >= degradation_level.queue_wait_ms for degradation_level in POLICY.degradation_levels
        )
