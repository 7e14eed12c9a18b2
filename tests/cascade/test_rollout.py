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
    return Rollout.parse({"policy": policy("a"), **fields})


def test_without_a_split_there_are_no_arms():
    assert rules().arm("anything") is None


def test_a_key_stays_in_its_arm_as_the_share_grows():
    keys = [f"camera-{number}" for number in range(2000)]
    small, large = (rules(split={"policy": policy("b"), "share": share}) for share in (0.2, 0.5))
    in_small = {key for key in keys if small.arm(key) == "b"}
    assert in_small == {key for key in keys if small.arm(key) == "b"}
    assert len(in_small) == pytest.approx(400, abs=80)
    assert in_small < {key for key in keys if large.arm(key) == "b"}


@pytest.mark.parametrize(("share", "arm"), [(0, "a"), (1, "b")])
def test_a_share_of_none_or_all_is_exact(share, arm):
    split = rules(split={"policy": policy("b"), "share": share})
    assert {split.arm(str(number)) for number in range(500)} == {arm}


def test_a_shadow_samples_its_share_of_requests():
    shadow = rules(shadow={"policy": policy("s"), "share": 0.1}).shadow
    assert shadow
    assert sum(shadow.samples(str(number)) for number in range(2000)) == pytest.approx(200, abs=60)


def test_a_second_head_needs_no_policy_of_its_own():
    shadow = rules(shadow={"second_head": True, "share": 1}).shadow
    assert shadow
    assert (shadow.second_head, shadow.policy.version, shadow.max_concurrent) == (True, "a+second-head", 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": {"policy": policy("a"), "share": 0.5}}, "two policies have the version 'a'"),
        ({"split": {"policy": policy("b")}}, r"split\.share is missing; add it"),
        ({"split": {"policy": {"version": "b"}, "share": 0.5}}, r"split\.policy\.clip is missing; add it"),
        (
            {"split": {"policy": policy("b"), "share": 1.5}},
            r"split\.share is 1\.5; it should be less than or equal to 1",
        ),
        ({"shadow": {"share": 0.5}}, r"shadow\.policy: it is missing; add it, or second_head: true"),
        (
            {"shadow": {"policy": policy("s"), "share": 0.5, "max_concurrent": 0}},
            "max_concurrent is 0; it should be gr",
        ),
        (
            {"shadow": {"policy": policy("s"), "share": 0.5, "max_concurrent": True}},
            "is True; it should be a valid int",
        ),
        ({"audit": {}}, r"audit\.share is missing; add it"),
        ({"audit": {"share": 0}}, r"audit\.share is 0; it should be greater than 0"),
        ({"audit": {"share": 2}}, r"audit\.share is 2; it should be less than or equal to 1"),
        (
            {"audit": {"share": 0.1, "max_concurrent": 17}},
            r"audit\.max_concurrent is 17; it should be less than or equ",
        ),
        (
            {"shadow": {"policy": policy("s"), "second_head": "yes", "share": 0.5}},
            r"second_head is 'yes'; it should be a",
        ),
        ({"shadows": {}}, r"shadows is not a known field; did you mean shadow\?"),
        ({"policy": 3}, "policy is 3; it should be a mapping"),
    ],
)
def test_invalid_rollouts_are_rejected(fields, message):
    with pytest.raises(ConfigError, match=message):
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
def test_a_rollout_round_trips_through_a_mapping(split, shadow, audit):
    given_rules = rules(split=split, shadow=shadow, audit=audit)
    assert Rollout.parse(given_rules.to_mapping()) == given_rules


def test_a_config_contains_policies_or_their_names(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("version: own\nphoto: [{stage: backbone, exit: [0.1, 0.9]}]\nclip: [{stage: video, exit: [0, 1]}]")
    assert load_rollout({}, "mini").policy.version.startswith("mini")
    assert load_rollout({"policy": "profile"}, "gpu-0").policy.version == "gpu-0"
    loaded = load_rollout({"policy": str(file), "split": {"policy": "mini", "share": 0.1}}, "gpu-0")
    assert loaded.policy.version == "own"
    assert loaded.split and isinstance(loaded.split.policy, Policy)
    with pytest.raises(ConfigError, match=r"policies is not a known field; did you mean policy\?"):
        load_rollout({"policies": "mini"}, "mini")
