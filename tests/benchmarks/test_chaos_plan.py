"""Tests of the plan of a chaos run."""

from itertools import islice, pairwise

import pytest

from benchmarks.chaos.plan import FULL, SHORT, STAGES, TARGETS, Plan, arrivals, good_files
from tests.benchmarks.chaos_runs import CLIP, HOSTILE, STILL

FILES = [STILL, CLIP, HOSTILE]


def test_arrivals_are_those_of_their_seed() -> None:
    first, again, other = (list(islice(arrivals(seed, 10, FILES), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_arrivals_are_poisson_with_a_twentieth_hostile_and_a_tenth_of_the_rest_clips() -> None:
    many = list(islice(arrivals(3, 10, FILES), 20_000))
    assert many[-1].at_s == pytest.approx(2_000, rel=0.03)
    gaps = [after.at_s - before.at_s for before, after in pairwise(many)]
    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.02)  # 1/e of an exponential
    kinds = [arrival.file.kind for arrival in many]
    assert kinds.count("hostile") / len(kinds) == pytest.approx(0.05, abs=0.01)
    assert kinds.count("clip") / (len(kinds) - kinds.count("hostile")) == pytest.approx(0.1, abs=0.01)


def test_every_file_comes_as_often_as_the_others_of_its_kind() -> None:
    stills = [STILL.__class__(str(n), "image/jpeg", b"", "still") for n in range(9)]
    sent = [file.name for file in islice(good_files(1, [*stills, CLIP]), 100)]
    assert sent.count("a.mp4") == 10
    assert all(sent.count(still.name) == 10 for still in stills)


def test_a_missing_kind_of_file_is_reported() -> None:
    with pytest.raises(ValueError, match="there is no hostile file"):
        next(arrivals(1, 10, [STILL, CLIP]))


@pytest.mark.parametrize("plan", [FULL, SHORT])
def test_a_plan_kills_everything_and_swaps_ten_times(plan: Plan) -> None:
    steps = [step for load in plan.loads for step in load.steps]
    assert {step.split()[1] for step in steps if step.startswith("kill")} == set(TARGETS) > set(STAGES)
    assert (plan.count("swap"), plan.count("rollback")) == (10, 1)
    assert [load.factor for load in plan.loads] == [0.5, 1, 2]


@pytest.mark.parametrize("plan", [FULL, SHORT])
def test_calm_phases_begin_with_everything_up_and_the_first_policy_active(plan: Plan) -> None:
    swaps = 0
    for load in plan.loads[:-1]:
        last_kill = max(at for at, step in enumerate(load.steps) if step.startswith("kill"))
        assert "recover" in load.steps[last_kill:]
        swaps += sum(step == "swap" for step in load.steps)
        assert swaps % 2 == 0, "every second policy put is the first one again"
