"""The risk certificate of a policy: it is stored with the policy, and invalid ones are rejected."""

from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.calibration.policy_writer import policy_yaml
from roadwork_serve.cascade.certificate import RiskBound, RiskCertificate
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError

BOUNDS = (
    RiskBound(media="photo", n=900, errors=3, p_value=0.02, confidence=0.975),
    RiskBound(media="clip", n=400, errors=0, p_value=0.01, confidence=0.975),
)
CERTIFICATE = RiskCertificate(
    risk_limit=0.01,
    confidence=0.95,
    method="exact",
    data_sha256="ab" * 32,
    human_labeled=800,
    date="2026-11-23",
    bounds=BOUNDS,
)
STEPS = [{"stage": "backbone", "exit": [0.1, 0.9]}]
POLICY: dict[str, Any] = {"version": "x", "photo": STEPS, "clip": STEPS, "certificate": CERTIFICATE.to_mapping()}
shares = st.floats(0, 1)
counts = st.integers(0, 10**9)
bounds = st.builds(
    RiskBound, media=st.sampled_from(["photo", "clip"]), n=counts, errors=counts, p_value=shares, confidence=shares
)
texts = st.text(max_size=500)
certificates = st.builds(
    RiskCertificate,
    risk_limit=shares,
    confidence=shares,
    method=texts,
    data_sha256=texts,
    human_labeled=counts,
    date=texts,
    bounds=st.lists(bounds, max_size=2).map(tuple),
)


@settings(deadline=None)
@given(certificates)
def test_a_certificate_round_trips_through_a_mapping(certificate: RiskCertificate) -> None:
    assert RiskCertificate.parse(certificate.to_mapping()) == certificate


def test_a_policy_file_contains_its_certificate() -> None:
    policy = Policy.parse(POLICY)
    text = policy_yaml(policy, "made up")
    assert policy.certificate == CERTIFICATE
    assert Policy.parse(yaml.safe_load(text)) == policy
    assert "  risk_limit: 0.01\n" in text and f"  data_sha256: {'ab' * 32}\n" in text


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("risk_limit",), 2, r"certificate\.risk_limit is 2; it should be less than or equal to 1"),
        (("confidence",), "high", r"certificate\.confidence is 'high'; it should be a valid number"),
        (("sworn",), True, r"certificate\.sworn is not a known field"),
        (("data_sha256",), 7, r"certificate\.data_sha256 is 7; it should be a valid string"),
        (("method",), "x" * 501, r"certificate\.method is 'xx.*; it should have at most 500 characters"),
        (("bounds",), "photo", r"certificate\.bounds is 'photo'; it should be a list"),
        (("bounds", 0, "media"), "song", r"certificate\.bounds\[0\]\.media is 'song'; it should be 'photo' or 'clip'"),
        (("bounds", 1, "n"), -1, r"certificate\.bounds\[1\]\.n is -1; it should be greater than or equal to 0"),
        (("bounds", 1, "p_value"), None, r"certificate\.bounds\[1\]\.p_value is None; it should be a valid number"),
    ],
)
def test_an_invalid_certificate_is_rejected_with_the_entry_to_fix(
    place: tuple[str | int, ...], value: object, message: str
) -> None:
    mapping = deepcopy(POLICY)
    entry = mapping["certificate"]
    entry["bounds"] = list(entry["bounds"])
    for part in place[:-1]:
        entry = entry[part]
    entry[place[-1]] = value
    with pytest.raises(ConfigError, match=message):
        Policy.parse(mapping)


def test_an_incomplete_certificate_is_rejected() -> None:
    mapping = {name: value for name, value in CERTIFICATE.to_mapping().items() if name != "data_sha256"}
    with pytest.raises(ConfigError, match="data_sha256 is missing"):
        RiskCertificate.parse(mapping)
