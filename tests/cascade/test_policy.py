import json
import math
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.log_odds import Calibrator, sigmoid
from roadwork_serve.cascade.policy import ExitCascade, Policy, Progress, Query, Skip, Step
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import bundled, load_policy_mapping
from tests.cascade.strategies import logits, policies, shares

MAPPING: dict[str, Any] = yaml.safe_load("""
version: "test-1"
prior: 0.4
decision_threshold: 0.5
photo:
  - {stage: backbone, exit: [0.03, 0.97], calibration: {scale: 1.5, prior_weight: 0.9, bias: -0.1}}
  - {stage: signs, min_text_probability: 0.4, exit: [0.05, 0.95], min_time_left_ms: 100}
  - {stage: vlm, exit: [0.1, 0.9], min_time_left_ms: 50}
clip:
  - {stage: backbone, exit: [0.03, 0.97]}
  - {stage: video, exit: [0.5, 0.5], min_time_left_ms: 100}
""")
POLICY = Policy.parse(MAPPING)
BACKBONE, SIGNS, VLM = POLICY.photo


def after_backbone(logit: float | None, text_probability: float | None = None) -> Progress:
    return POLICY.start().after(BACKBONE, logit, text_probability)


def test_a_policy_is_read_from_yaml():
    assert POLICY.version == "test-1"
    assert (POLICY.prior, POLICY.decision_threshold) == (0.4, 0.5)
    assert (
        Step(stage="backbone", exit=(0.03, 0.97), calibration=Calibrator(scale=1.5, prior_weight=0.9, bias=-0.1))
        == BACKBONE
    )
    assert Step(stage="signs", exit=(0.05, 0.95), min_text_probability=0.4, min_time_left_ms=100.0) == SIGNS
    assert [step.stage for step in POLICY.steps("clip")] == ["backbone", "video"]


def test_prior_and_threshold_default_to_one_half():
    mapping = {key: value for key, value in MAPPING.items() if key not in ("prior", "decision_threshold")}
    assert (Policy.parse(mapping).prior, Policy.parse(mapping).decision_threshold) == (0.5, 0.5)


@pytest.mark.parametrize("name", bundled("policies"))
def test_bundled_policies_are_valid(name):
    assert Policy.parse(load_policy_mapping(name)).version


@given(policies())
def test_a_policy_round_trips_through_a_mapping(policy):
    assert Policy.parse(policy.to_mapping()) == policy
    assert Policy.parse(json.loads(json.dumps(policy.to_mapping()))) == policy


REMOVE = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], REMOVE, r"version is missing; add it"),
        (["version"], 1.0, r"version is 1\.0; it should be a valid string"),
        (["version"], "  ", r"version: '  ' is not a name; write a text in quotes"),
        (["version"], "x" * 129, r"version is 'xxx.*; it should .*at most 128 characters"),
        (["clip"], REMOVE, r"clip is missing; add it"),
        (["colour"], "red", r"colour is not a known field; remove it, or use one of certificate, clip, "),
        ([True], 1, r"the key True is not a string; write names in quotes"),
        (["prior"], 0, r"prior: 0 leaves nothing to decide"),
        (["prior"], 1, r"prior: 1 leaves nothing to decide"),
        (["prior"], math.nan, r"prior is nan; it should be a finite number"),
        (["prior"], 10**400, r"prior is 1000+\.\.\.; it should be "),
        (["decision_threshold"], "half", r"decision_threshold is 'half'; it should be a valid number"),
        (["decision_threshold"], 1.5, r"decision_threshold is 1\.5; it should be less than or equal to 1"),
        (["photo"], [], r"photo: no stage is listed; list at least one of backbone, closeup"),
        (["photo"], {"stage": "backbone"}, r"photo is .*; it should be a list"),
        (["photo", 1], "signs", r"photo\[1\] is 'signs'; it should be a mapping"),
        (["photo", 1, "stage"], REMOVE, r"photo\[1\]\.stage is missing; add it"),
        (["photo", 1, "stage"], "sings", r"photo\[1\]\.stage is 'sings'; it should be 'backbone', 'closeup', 'signs'"),
        (["photo", 1, "stage"], ["signs"], r"photo\[1\]\.stage is \['signs'\]; it should be 'backbone', "),
        (["photo", 2, "stage"], "backbone", r"photo\[2\]\.stage: backbone is listed twice"),
        (["photo", 1, "min_time_ms"], 5, r"photo\[1\]\.min_time_ms is not a known field; did you mean min_time_l"),
        (["photo", 1, "exit"], REMOVE, r"photo\[1\]\.exit is missing; add it"),
        (["photo", 1, "exit"], 0.5, r"photo\[1\]\.exit is 0\.5; it should be a list"),
        (["photo", 1, "exit"], [0.1, 0.5, 0.9], r"photo\[1\]\.exit has 3 entries; write 2"),
        (["photo", 1, "exit"], [0.1], r"photo\[1\]\.exit\[1\] is missing; add it"),
        (["photo", 1, "exit"], [0.9, 0.1], r"photo\[1\]\.exit: low 0\.9 is above high 0\.1; write \[0\.1, 0\.9\]\?"),
        (["photo", 1, "exit"], [0.6, 0.9], r"photo\[1\]\.exit: the band \[0\.6, 0\.9\] does not contain decision_t"),
        (["photo", 1, "exit", 0], True, r"photo\[1\]\.exit\[0\] is True; it should be a valid number"),
        (["photo", 1, "exit", 1], 97, r"photo\[1\]\.exit\[1\] is 97; it should be less than or equal to 1"),
        (["clip", 1, "min_time_left_ms"], -1, r"clip\[1\]\.min_time_left_ms is -1; it should be greater than or"),
        (["clip", 1, "min_time_left_ms"], math.inf, r"clip\[1\]\.min_time_left_ms is inf; it should be a finite nu"),
        (["clip", 1, "min_text_probability"], 2, r"clip\[1\]\.min_text_probability is 2; it should be less"),
        (["clip", 1, "head"], "heads/2", r"clip\[1\]\.head: stage video has no heads; remove it"),
        (["photo", 0, "calibration"], 1.5, r"photo\[0\]\.calibration is 1\.5; it should be a mapping"),
        (["photo", 0, "calibration", "slope"], 1, r"photo\[0\]\.calibration\.slope is not a known field; .*scale"),
        (["photo", 0, "calibration", "scale"], None, r"photo\[0\]\.calibration\.scale is None; it should be a valid n"),
        (["photo", 0, "calibration", "scale"], -1, r"photo\[0\]\.calibration\.scale is -1; it should be greater than"),
    ],
)  # fmt: skip
def test_an_error_names_the_entry_and_what_to_write_instead(path, value, message):
    mapping = deepcopy(MAPPING)
    inner: Any = mapping
    for key in path[:-1]:
        inner = inner[key]
    if value is REMOVE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    with pytest.raises(ConfigError, match="^" + message):
        Policy.parse(mapping)


@pytest.mark.parametrize("nothing", [None, [], "backbone"])
def test_a_policy_must_be_a_mapping(nothing):
    with pytest.raises(ConfigError, match=r"^policy is .*; it should be a mapping"):
        Policy.parse(nothing)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.dictionaries(st.sampled_from(["version", "prior", "decision_threshold", "photo", "clip", "x"]), json_like)
    | json_like
)
def test_invalid_input_raises_only_config_errors(mapping):
    try:
        Policy.parse(mapping)
    except ConfigError as error:
        assert str(error)


def test_the_first_stage_runs_first():
    assert POLICY.next_step("photo", POLICY.start(), left_s=10) == Query(BACKBONE)


@pytest.mark.parametrize(
    ("logit", "move"), [(6.0, ExitCascade("above_band")), (-6.0, ExitCascade("below_band")), (0.0, Query(SIGNS))]
)
def test_the_band_decides_whether_the_next_step_runs(logit, move):
    assert POLICY.next_step("photo", after_backbone(logit), left_s=10) == move


def test_the_edges_of_the_band_are_inside_it():
    policy = Policy(version="edges", photo=(Step(stage="backbone", exit=(0.5, 0.5)), VLM), clip=(BACKBONE,))
    assert policy.next_step("photo", policy.start().after(policy.photo[0], 0.0), left_s=10) == Query(VLM)


@pytest.mark.parametrize(
    ("text_probability", "asked"), [(None, True), (0.0, False), (0.39, False), (0.4, True), (1.0, True)]
)
def test_the_sign_stage_runs_where_text_is_likely_or_unknown(text_probability, asked):
    move = POLICY.next_step("photo", after_backbone(0.0, text_probability), left_s=10)
    assert isinstance(move, Query if asked else Skip)
    assert move.step == SIGNS


def test_behind_a_skipped_stage_the_next_one_runs():
    assert POLICY.next_step("photo", after_backbone(0.0, 0.1).past(), left_s=10) == Query(VLM)


def test_a_stage_does_not_run_without_enough_time():
    assert POLICY.next_step("photo", after_backbone(0.0), left_s=0.1) == Query(SIGNS)
    assert POLICY.next_step("photo", after_backbone(0.0), left_s=0.099) == ExitCascade("deadline")
    assert POLICY.next_step("photo", POLICY.start(), left_s=0.0) == ExitCascade("deadline")


def test_an_exit_takes_precedence_over_the_deadline():
    assert POLICY.next_step("photo", after_backbone(6.0), left_s=-1) == ExitCascade("above_band")


def test_a_stage_that_abstains_changes_no_posterior_and_causes_no_exit():
    low_prior = Policy(version="rare", photo=POLICY.photo, clip=POLICY.clip, prior=0.001)
    progress = low_prior.start().after(BACKBONE, None, 0.9)
    assert progress.posterior == pytest.approx(0.001)
    assert low_prior.next_step("photo", progress, left_s=10) == Query(SIGNS)


def test_a_later_stage_that_abstains_does_not_tighten_the_band():
    progress = after_backbone(2.5)
    assert SIGNS.high < progress.posterior < BACKBONE.high
    assert POLICY.next_step("photo", progress.after(SIGNS, None), left_s=10) == Query(VLM)


def test_the_exit_reason_distinguishes_failure_from_doubt():
    doubtful = after_backbone(0.0).past().after(VLM, 0.0)
    assert POLICY.next_step("photo", doubtful, left_s=10) == ExitCascade("last_stage")
    for helpless in (after_backbone(0.0).past().past(failed=True), after_backbone(0.0).past(failed=True).past()):
        assert POLICY.next_step("photo", helpless, left_s=10) == ExitCascade("failed")
    recovered = after_backbone(0.0).past(failed=True).after(VLM, 0.0)
    assert POLICY.next_step("photo", recovered, left_s=10) == ExitCascade("last_stage")


@given(policies(), st.sampled_from(["photo", "clip"]), st.data())
def test_the_policy_always_ends(policy, kind, data):
    progress, asked = policy.start(), []
    for _ in range(len(policy.steps(kind)) + 1):
        move = policy.next_step(kind, progress, data.draw(st.floats(-1, 20)))
        if isinstance(move, ExitCascade):
            break
        asked.append(move.step.stage)
        if isinstance(move, Skip) or data.draw(st.booleans()):
            progress = progress.past(failed=isinstance(move, Query))
        else:
            progress = progress.after(move.step, data.draw(st.none() | logits), data.draw(st.none() | shares))
    else:
        pytest.fail("the policy goes on for ever")
    assert asked == [step.stage for step in policy.steps(kind)][: len(asked)]


@given(policies(), logits, logits)
def test_more_evidence_never_reverses_the_exit(policy, one, other):
    order = {"below_band": 0, "above_band": 2}
    low, high = (
        policy.next_step("photo", policy.start().after(policy.photo[0], logit), 1e9) for logit in sorted((one, other))
    )
    rank = [order.get(move.reason, 1) if isinstance(move, ExitCascade) else 1 for move in (low, high)]
    assert rank == sorted(rank)


@given(policies(), logits)
def test_the_band_and_the_label_never_contradict_each_other(policy, logit):
    progress = policy.start().after(policy.photo[0], logit)
    move = policy.next_step("photo", progress, 1e9)
    assert progress.posterior == sigmoid(progress.logodds)
    if move == ExitCascade("above_band"):
        assert progress.posterior >= policy.decision_threshold
    if move == ExitCascade("below_band"):
        assert progress.posterior < policy.decision_threshold
