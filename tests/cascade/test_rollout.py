import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import ConfigError


def policy(version: str) -> dict[str, object]:
    steps = [{"stage": "backbone", "exit": [0.1, 0.9]}]
    return {"version": version, "photo": steps, "clip": steps}


def rules(**fields: object) -> Rollout:
    return Rollout.from_mapping({"policy": policy("a"), **fields})


def test_without_a_split_there_are_no_arms():
    assert rules().arm("anything") is None


def test_a_key_stays_with_its_arm_and_a_growing_share_takes_nobody_out_of_it():
    keys = [f"camera-{number}" for number in range(2000)]
    small, large = (rules(split={"policy": policy("b"), "share": share}) for share in (0.2, 0.5))
    in_small = {key for key in keys if small.arm(key) == "b"}
    assert in_small == {key for key in keys if small.arm(key) == "b"}
    assert len(in_small) == pytest.approx(400, abs=80)
    assert in_small < {key for key in keys if large.arm(key) == "b"}


@pytest.mark.parametrize(("share", "arm"), [(0, "a"), (1, "b")])
def test_a_share_of_none_or_all_is_just_that(share, arm):
    split = rules(split={"policy": policy("b"), "share": share})
    assert {split.arm(str(number)) for number in range(500)} == {arm}


def test_a_shadow_takes_its_share_of_the_requests():
    shadow = rules(shadow={"policy": policy("s"), "share": 0.1}).shadow
    assert shadow
    assert sum(shadow.takes(str(number)) for number in range(2000)) == pytest.approx(200, abs=60)


def test_a_second_head_needs_no_policy_of_its_own():
    shadow = rules(shadow={"second_head": True, "share": 1}).shadow
    assert shadow
    assert (shadow.second_head, shadow.policy.version, shadow.max_concurrent) == (True, "a+second-head", 1)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"split": {"policy": policy("a"), "share": 0.5}}, "two policies have the version 'a'"),
        ({"split": {"policy": policy("b")}}, "split: share is missing"),
        ({"split": {"policy": {"version": "b"}, "share": 0.5}}, "split.policy: policy: clip is missing"),
        ({"split": {"policy": policy("b"), "share": 1.5}}, "split.share: 1.5 is out of range"),
        ({"shadow": {"share": 0.5}}, "shadow.policy: it is missing"),
        ({"shadow": {"policy": policy("s"), "share": 0.5, "max_concurrent": 0}}, "whole number from 1 to 16"),
        ({"shadow": {"policy": policy("s"), "share": 0.5, "max_concurrent": True}}, "whole number"),
        ({"audit": {}}, "survey: share is missing"),
        ({"audit": {"share": 0}}, "survey.share: 0 asks nobody"),
        ({"audit": {"share": 2}}, "survey.share: 2 is out of range"),
        ({"audit": {"share": 0.1, "max_concurrent": 17}}, "survey.at_once: 17 should be a whole number from 1 to 16"),
        ({"shadow": {"second_head": "yes", "share": 0.5}}, "true or false"),
        ({"shadows": {}}, "unknown entry 'shadows'"),
        ({"policy": 3}, "policy: policy: 3 is not a mapping"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        rules(**fields)


@given(
    st.none() | st.fixed_dictionaries({"policy": st.just(policy("b")), "share": st.floats(0, 1)}),
    st.none()
    | st.fixed_dictionaries(
        {"policy": st.just(policy("s")), "share": st.floats(0, 1), "second_head": st.booleans()},
        optional={"max_concurrent": st.integers(1, 16)},
    ),
    st.none() | st.fixed_dictionaries({"share": st.floats(0.001, 1)}, optional={"max_concurrent": st.integers(1, 16)}),
)
def test_rules_survive_being_written_down(split, shadow, audit):
    given_rules = rules(split=split, shadow=shadow, audit=audit)
    assert Rollout.from_mapping(given_rules.to_mapping()) == given_rules


def test_a_config_names_policies_or_holds_them(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("version: own\nphoto: [{stage: backbone, exit: [0.1, 0.9]}]\nclip: [{stage: video, exit: [0, 1]}]")
    assert load_rollout({}, "mini").policy.version.startswith("mini")
    assert load_rollout({"policy": "profile"}, "gpu-0").policy.version == "gpu-0"
    loaded = load_rollout({"policy": str(file), "split": {"policy": "mini", "share": 0.1}}, "gpu-0")
    assert loaded.policy.version == "own"
    assert loaded.split and isinstance(loaded.split.policy, Policy)
    with pytest.raises(ConfigError, match="unknown entry 'policies'"):
        load_rollout({"policies": "mini"}, "mini")
