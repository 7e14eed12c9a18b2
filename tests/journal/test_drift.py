import numpy as np
import pytest

from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.journal.drift import drift, kolmogorov
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.media import squash
from roadwork_serve.schema import Exit
from roadwork_serve.testbed import scenes
from tests.journal.made import entry, report


def traffic(
    count: int, seed: int, shift: float = 0.0, late: float = 0.2, works: float = 0.5, width: int = 8
) -> list[JournalRow]:
    """Return entries. shift: of features, in deviations. late: share of VLM exits. works: scores ~ beta(works, 0.5)."""
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        probability, goes_on = float(rng.beta(works, 0.5)), rng.random() < late
        stages = [report("backbone", probability)]
        if goes_on:
            stages.append(report("vlm", float(rng.beta(works, 0.5))))
        left = Exit(stage="vlm" if goes_on else "backbone", reason="last_stage" if goes_on else "above_band")
        vector = rng.normal(shift, 1, (1, width)).astype(np.float16)
        given = {"stages": tuple(stages), "exit": left}
        cases.append(JournalRow(entry(f"{seed}-{number}", probability, features=vector, verdict=given)))
    return cases


def test_the_false_alarm_rate_is_the_nominal_one() -> None:
    pool = traffic(4000, 1)
    rng = np.random.default_rng(2)
    repetitions, ps, found = 300, {}, 0
    for _ in range(repetitions):
        chosen = rng.choice(len(pool), 160, replace=False)
        cases = [pool[at] for at in chosen]
        result = drift(cases[:80], cases[80:], permutations=199, seed=int(rng.integers(1 << 30)))
        found += bool(result.significant(0.05))
        for shift in result.shifts:
            if shift.p is not None:
                ps.setdefault(shift.name, []).append(shift.p)
    assert {"exits", "features", "verdict", "backbone"} <= ps.keys()
    for what in ("exits", "features", "verdict", "backbone"):
        values = np.array(ps[what])
        assert len(values) == repetitions
        assert (values < 0.01).sum() <= 10, what  # 3 are to be expected; more than 10 in one of 4,000 runs
        assert (values < 0.1).mean() < 0.16, what
    assert np.mean(np.array(ps["features"]) < 0.1) > 0.04
    assert np.mean(np.array(ps["exits"]) < 0.1) > 0.03
    assert found <= 27  # of 15 at most that the level of 0.05 allows for; binomial, 99.9 %


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"shift": 0.5}, "features"), ({"late": 0.5}, "exits"), ({"works": 1.5}, "backbone")],
)
def test_a_true_change_is_detected_and_named(changed: dict[str, float], what: str) -> None:
    result = drift(traffic(400, 1), traffic(300, 2, **changed))
    assert what in [shift.name for shift in result.significant()]
    assert (result.reference, result.window) == (400, 300)
    (shift,) = (shift for shift in result.shifts if shift.name == what)
    assert shift.size > 0.1


def test_changes_are_reported_separately() -> None:
    result = drift(traffic(400, 1), traffic(300, 2, shift=0.5))
    assert [shift.name for shift in result.significant()] == ["features"]
    assert {shift.name: shift.size for shift in result.shifts}["features"] == pytest.approx(0.5, abs=0.1)


def test_darker_images_are_detected_by_the_features_of_stage_1() -> None:
    engine = FeatureEngine(weights_folder("bundled:backbone"))

    def seen(first: int, brightness: float) -> list[JournalRow]:
        thumbs = [squash(scenes.photo(first + n, 0.3).image, engine.side) for n in range(40)]
        kept = engine.stored_features(engine.extract((np.stack(thumbs) * brightness).astype(np.uint8)))
        return [JournalRow(entry(f"{first}-{at}", features=vector[None])) for at, vector in enumerate(kept)]

    before = seen(830_000, 1.0)
    assert "features" in [shift.name for shift in drift(before, seen(840_000, 0.3)).significant()]
    assert drift(before, seen(850_000, 1.0)).significant() == ()


def test_too_few_predictions_are_untested_with_the_reason() -> None:
    result = drift(traffic(100, 1), traffic(29, 2, shift=9))
    assert result.significant() == ()
    assert {shift.p for shift in result.shifts} == {None}
    assert "the window has 29 predictions; the test needs 30" in result.shifts[0].untested
    empty = drift([], [])
    assert (empty.reference, empty.window, empty.significant()) == (0, 0, ())


def test_features_of_another_backbone_are_not_compared() -> None:
    other = [JournalRow(entry(f"{n}", features_model="new", features=np.ones((1, 8), np.float16))) for n in range(50)]
    (shift,) = (shift for shift in drift(traffic(50, 1), other).shifts if shift.name == "features")
    assert shift.p is None
    assert shift.untested == "the features come from different backbones: made before, new now"


def test_the_kolmogorov_smirnov_p_value_matches_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the extra `train`")
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.1, 0.3):
        mine, theirs = rng.normal(0, 1, 400), rng.normal(shift, 1, 300)
        expected = stats.ks_2samp(mine, theirs, method="exact").pvalue
        assert kolmogorov(mine, theirs) == pytest.approx(expected, rel=0.15, abs=0.01)
    assert kolmogorov(mine, mine) == 1.0
