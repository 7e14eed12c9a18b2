"""Replays of stored predictions under another policy."""

import pytest

from roadwork_serve.api.policy_preview import preview_policy, replay_stages
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.schema import MAX_FLIPPED, Evidence, Exit, FlippedEntry, StageReport
from tests.journal.made import entry, report

NARROW, WIDE = [0.4, 0.6], [0.05, 0.95]


def policy(*bands: list[float], version: str = "p", **backbone: object) -> Policy:
    stages = ("backbone", "vlm")[: len(bands)]
    steps = [{"stage": stage, "exit": band} for stage, band in zip(stages, bands, strict=True)]
    steps[0] |= backbone
    return Policy.parse({"version": version, "photo": steps, "clip": steps})


def asked(stage: str, probability: float | None, **fields: object) -> StageReport:
    return report(stage, probability, batch_size=1, **fields)


def case(name: str, *stages: StageReport, label: str = "", audit: tuple[StageReport, ...] | None = None) -> JournalRow:
    given = entry(name, 0.9, verdict={"stages": list(stages), "exit": Exit(stage="backbone", reason="above_band")})
    mark = Annotation(None if label == "unclear" else label, "ann", 1.0) if label else None  # type: ignore[arg-type]
    return JournalRow(given, audit, (), mark)


def test_an_entry_exits_where_the_policy_requires():
    seen = case("a", asked("backbone", 0.8), asked("vlm", 0.01))
    early, late = replay_stages(seen, policy(NARROW, NARROW)), replay_stages(seen, policy(WIDE, [0.5, 0.5]))
    assert (early.stage, early.positive) == ("backbone", True)
    assert (late.stage, late.positive) == ("vlm", False)
    assert late.gflops > early.gflops > 0


def test_without_a_prediction_of_the_stage_the_result_is_unknown():
    seen = case("a", asked("backbone", 0.8))
    assert replay_stages(seen, policy(NARROW, NARROW)).stage == "backbone"
    assert replay_stages(seen, policy(WIDE, NARROW)).stage is None
    beside = case("a", asked("backbone", 0.8), audit=(asked("vlm", 0.99),))
    assert replay_stages(beside, policy(WIDE, NARROW)).stage == "vlm"


def test_the_prediction_of_another_head_is_not_reused():
    seen = case("a", asked("backbone", 0.8, head="old"))
    assert replay_stages(seen, policy(NARROW, head="old")).stage == "backbone"
    assert replay_stages(seen, policy(NARROW, head="new")).stage is None
    assert replay_stages(seen, policy(NARROW)).stage is None


def test_a_stage_that_abstains_or_is_not_needed_is_skipped():
    steps = [
        {"stage": "backbone", "exit": WIDE},
        {"stage": "signs", "exit": NARROW, "min_text_probability": 0.5},
        {"stage": "vlm", "exit": [0.5, 0.5]},
    ]
    asks = Policy.parse({"version": "p", "photo": steps, "clip": steps})
    unlikely = case("a", asked("backbone", 0.8, evidence=Evidence(text_probability=0.1)), asked("vlm", 0.99))
    silent = case(
        "a", asked("backbone", 0.8, evidence=Evidence(text_probability=0.9)), asked("signs", None), asked("vlm", 0.99)
    )
    assert replay_stages(unlikely, asks).stage == replay_stages(silent, asks).stage == "vlm"
    assert replay_stages(silent, asks).gflops > replay_stages(unlikely, asks).gflops


def test_two_policies_are_compared():
    now, then = policy(WIDE, [0.5, 0.5], version="now"), policy(NARROW, [0.5, 0.5], version="then")
    cases = [
        case("turned", asked("backbone", 0.8), asked("vlm", 0.01), label="none"),
        case("same", asked("backbone", 0.8), asked("vlm", 0.9), label="roadwork"),
        case("early", asked("backbone", 0.99), label="unclear"),
        case("unknown now", asked("backbone", 0.8)),
        case("unknown", asked("backbone", 0.5)),
    ]
    preview = preview_policy(cases, now, then, ("roadwork", "none"))
    assert preview.version == "then"
    assert preview.entries == 5
    assert [(exit.stage, exit.current, exit.proposed) for exit in preview.exits] == [("backbone", 1, 4), ("vlm", 2, 0)]
    assert (preview.unknown_current, preview.unknown_proposed) == (2, 1)
    assert preview.flipped == 1
    flipped = FlippedEntry(
        id="turned", filename="", media="photo", media_available=False, proposed="roadwork", human_label="none"
    )
    assert preview.flipped_entries == [flipped]
    assert (preview.labeled, preview.correct_current, preview.correct_proposed) == (2, 2, 1)
    assert preview.gflops_current > preview.gflops_proposed > 0


def test_a_preview_lists_a_bounded_number_of_flipped_entries():
    now, then = policy(WIDE, [0.5, 0.5]), policy(NARROW, [0.5, 0.5])
    cases = [case(str(number), asked("backbone", 0.8), asked("vlm", 0.01)) for number in range(MAX_FLIPPED + 2)]
    preview = preview_policy(cases, now, then, ("roadwork", "none"))
    assert preview.flipped == MAX_FLIPPED + 2
    assert [each.id for each in preview.flipped_entries] == [str(number) for number in range(MAX_FLIPPED)]


def test_no_entries_give_an_empty_preview():
    preview = preview_policy([], policy(WIDE), policy(NARROW), ("roadwork", "none"))
    assert (preview.entries, preview.exits, preview.gflops_current) == (0, [], 0.0)


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_stage_that_failed_at_the_time_is_unknown(outcome: str):
    seen = case("a", asked("backbone", 0.8), replace_outcome(report("vlm", None), outcome))
    assert replay_stages(seen, policy(WIDE, NARROW)).stage is None


def replace_outcome(stage_report: StageReport, outcome: str) -> StageReport:
    return stage_report.model_copy(update={"outcome": outcome})
