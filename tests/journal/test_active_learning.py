import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.journal.active_learning import WEIGHTS, ScoreWeights, informativeness, most_informative
from roadwork_serve.journal.novelty import build_reference
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.schema import Evidence, Exit
from tests.journal.made import entry, report, verdict

SURE = JournalRow(entry("sure", 1.0))


def reasons(case: JournalRow, **given: float) -> dict[str, float]:
    return dict(informativeness(case, **given).reasons)


def test_a_prediction_that_all_stages_agree_on_is_not_informative() -> None:
    assert informativeness(SURE).value == 0
    assert informativeness(SURE).reasons == ()


@pytest.mark.parametrize(
    ("case", "reason", "strength"),
    [
        (JournalRow(entry("a", 0.5)), "margin", 1.0),
        (JournalRow(entry("a", 0.75)), "margin", 0.5),
        (JournalRow(entry("a", 1.0, verdict={"degraded": True})), "degraded", 1.0),
        (JournalRow(entry("a", 1.0, verdict={"exit": Exit(stage="vlm", reason="deadline")})), "deadline", 1.0),
        (JournalRow(entry("a", 1.0, verdict={"exit": Exit(stage="vlm", reason="failed")})), "deadline", 1.0),
        (
            JournalRow(
                entry("a", 1.0, verdict={"stages": (report("vlm", 1.0, evidence=Evidence(other_token_mass=0.4)),)})
            ),
            "other_token_mass",
            0.4,
        ),
        (JournalRow(entry("a", 1.0, verdict={"stages": (report("backbone", 0.3), report("vlm", 0.9))})), "stages", 0.6),
        (JournalRow(entry("a", 1.0, verdict={"stages": (report("backbone", 0.1),)})), "stages", 0.8),
        (JournalRow(entry("a", 1.0), audit=(report("vlm", 0.2), report("signs", None))), "deferred", 0.6),
        (JournalRow(entry("a", 1.0), shadows=(verdict("a", 0.3),)), "deferred", 0.7),
        (JournalRow(entry("a", 1.0), annotation=Annotation("none", "ann", 1.0)), "mislabeled", 1.0),
    ],
)
def test_each_reason_alone_counts_with_its_weight(case: JournalRow, reason: str, strength: float) -> None:
    assert reasons(case) == {reason: pytest.approx(strength)}
    assert informativeness(case).value == pytest.approx(getattr(WEIGHTS, reason) * strength)


@pytest.mark.parametrize(
    "case",
    [
        JournalRow(entry("a", 1.0), audit=(report("vlm", 0.6),)),
        JournalRow(entry("a", 1.0), shadows=(verdict("a", 0.6),)),
        JournalRow(entry("a", 1.0), annotation=Annotation("roadwork", "ann", 1.0)),
        JournalRow(entry("a", 1.0), annotation=Annotation(None, "ann", 1.0)),
    ],
)
def test_agreement_and_unclear_labels_add_nothing(case: JournalRow) -> None:
    assert informativeness(case).value == 0


def test_novelty_counts_where_known_and_the_margin_uses_the_decision_threshold() -> None:
    assert reasons(SURE, novelty=0.5) == {"novelty": 0.5}
    assert reasons(SURE, novelty=math.nan) == {}
    assert reasons(JournalRow(entry("a", 0.2)), decision_threshold=0.2)["margin"] == 1
    assert reasons(JournalRow(entry("a", 0.1)), decision_threshold=0.2)["margin"] == pytest.approx(0.5)
    assert "margin" not in reasons(JournalRow(entry("a", 0.0)), decision_threshold=0.2)


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from([None, "roadwork", "none"]),
    st.floats(0, 1),
)
def test_every_further_reason_increases_the_score_up_to_one(
    probability: float, first: float, second: float, degraded: bool, marked: str | None, novelty: float
) -> None:
    stages = (report("backbone", first), report("vlm", second))
    plain = entry("a", probability, verdict={"stages": stages})
    more = entry("a", probability, verdict={"stages": stages, "degraded": degraded})
    mark = None if marked is None else Annotation(marked, "ann", 1.0)  # type: ignore[arg-type]
    less, greater = informativeness(JournalRow(plain)), informativeness(JournalRow(more, annotation=mark), novelty)
    assert 0 <= less.value <= greater.value + 1e-12
    assert greater.value <= 1
    assert [getattr(WEIGHTS, name) * strength for name, strength in greater.reasons] == sorted(
        (getattr(WEIGHTS, name) * strength for name, strength in greater.reasons), reverse=True
    )


def vectors(count: int, width: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.normal(0, 1, (1, width)).astype(np.float16) for _ in range(count)]


def test_the_most_informative_come_first_and_duplicates_once() -> None:
    shown = vectors(40)
    cases = [JournalRow(entry(f"{n:02d}", 0.5 + n / 100, features=shown[n])) for n in range(40)]
    again = [JournalRow(entry(f"again{n}", 0.5 + n / 100 + 0.001, features=shown[n])) for n in (0, 0, 3)]
    found = most_informative([*again, *cases[::-1]], 5)
    assert [each.row.prediction.id for each in found] == ["00", "01", "02", "03", "04"]
    assert [each.duplicates for each in found] == [2, 0, 0, 1, 0]
    assert [each.score.value for each in found] == sorted((each.score.value for each in found), reverse=True)


def test_with_a_reference_novel_items_come_first() -> None:
    usual = [JournalRow(entry(f"{n}", 0.9, features=vector)) for n, vector in enumerate(vectors(300))]
    new = JournalRow(entry("new", 0.9, features=np.full((1, 16), 9, np.float16)))
    found = most_informative([*usual, new], 3, build_reference(usual))
    assert found[0].row.prediction.id == "new"
    assert dict(found[0].score.reasons)["novelty"] == 1


def test_a_reason_of_weight_zero_changes_nothing() -> None:
    case = JournalRow(entry("a", 1.0, verdict={"degraded": True}))
    assert informativeness(case, weights=ScoreWeights(degraded=0.0)).value == 0


def test_ties_do_not_change_the_number_of_results() -> None:
    def stream():
        for number in range(3000):
            yield JournalRow(entry(f"{number}", 0.5 + number % 7 / 100, features=None))

    assert [each.row.prediction.verdict.probability for each in most_informative(stream(), 4)] == [0.5] * 4
