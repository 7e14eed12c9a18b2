"""What is promised of a policy travels with it, and is taken away with what it was promised of."""

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

PROMISES = RiskBound("photo", 900, 3, 0.02, 0.975), RiskBound("clip", 400, 0, 0.01, 0.975)
CERTIFICATE = RiskCertificate(0.01, 0.95, "exact", "ab" * 32, 800, "2026-11-23", PROMISES)
STEPS = [{"stage": "backbone", "exit": [0.1, 0.9]}]
POLICY: dict[str, Any] = {"version": "x", "photo": STEPS, "clip": STEPS, "certificate": CERTIFICATE.to_mapping()}
shares = st.floats(0, 1)
counts = st.integers(0, 10**9)
promises = st.builds(RiskBound, st.sampled_from(["photo", "clip"]), counts, counts, shares, shares)
texts = st.text(max_size=500)
certificates = st.builds(
    RiskCertificate, shares, shares, texts, texts, counts, texts, st.lists(promises, max_size=2).map(tuple)
)


@settings(deadline=None)
@given(certificates)
def test_a_certificate_comes_back_as_it_was(certificate: RiskCertificate) -> None:
    assert RiskCertificate.from_mapping(certificate.to_mapping()) == certificate


def test_a_policy_file_holds_its_certificate_for_people_and_for_the_server() -> None:
    policy = Policy.from_mapping(POLICY)
    text = policy_yaml(policy, "made up")
    assert policy.certificate == CERTIFICATE
    assert Policy.from_mapping(yaml.safe_load(text)) == policy
    assert "  max_loss: 0.01\n" in text and f"  data: {'ab' * 32}\n" in text


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("risk_limit",), 2, r"certificate\.max_loss: 2 is out of range"),
        (("confidence",), "high", r"certificate\.confidence: 'high' is not a number"),
        (("sworn",), True, r"certificate: unknown entry 'sworn'"),
        (("data",), 7, r"certificate\.data: 7 should be a text"),
        (("method",), "x" * 501, r"certificate\.method: .* at most 500 characters"),
        (("promises",), "photo", r"certificate\.promises: 'photo' is not a list"),
        (("promises", 0, "media"), "song", r"certificate\.promises\[0\]\.media: 'song' is neither photo nor clip"),
        (("promises", 1, "n"), -1, r"certificate\.promises\[1\]\.n: -1 is out of range"),
        (("promises", 1, "p_value"), None, r"certificate\.promises\[1\]\.p_value: None is not a number"),
    ],
)
def test_a_certificate_that_is_none_is_refused_with_the_entry_to_mend(
    place: tuple[str | int, ...], value: object, message: str
) -> None:
    told = deepcopy(POLICY)
    entry = told["certificate"]
    entry["promises"] = list(entry["promises"])
    for part in place[:-1]:
        entry = entry[part]
    entry[place[-1]] = value
    with pytest.raises(ConfigError, match=message):
        Policy.from_mapping(told)


def test_a_certificate_that_lacks_something_is_refused() -> None:
    told = {name: value for name, value in CERTIFICATE.to_mapping().items() if name != "data"}
    with pytest.raises(ConfigError, match="certificate: data is missing"):
        RiskCertificate.from_mapping(told)
