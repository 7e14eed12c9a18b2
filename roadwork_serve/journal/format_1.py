"""Verdicts and reports of format 1, as the journal stored them before 0.1.0, in the names of format 2."""

from collections.abc import Mapping
from typing import Any

_EVIDENCE = {
    "words": "text_lines",
    "thought": "reasoning",
    "left_over": "other_token_mass",
    "coarse": "from_choice",
    "words_likely": "text_probability",
    "frames": "frame_probabilities",
}
_REPORT = {"batch_ms": "preprocess_ms", "hop_ms": "rpc_ms", "saw": "evidence"}
_VERDICT = {"gear": "degradation_level", "survey": "audit_rate"}
_PREDICTION = {"at_s": "created_at_s", "policy_number": "policy_revision", "survey": "audit_rate"}
_DEFERRED = {"of": "prediction_id", "at_s": "created_at_s"}
#: Kinds of deferred results.
KINDS = {"survey": "audit", "shadow": "shadow"}


def upgrade_verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict in the names of format 2. One that has them already stays as it is."""
    found = _renamed(verdict, _VERDICT)
    if "stages" in found:
        found["stages"] = [upgrade_report(report) for report in found["stages"]]
    return found


def upgrade_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's report in the names of format 2."""
    found = _renamed(report, _REPORT)
    if "evidence" in found:
        found["evidence"] = _renamed(found["evidence"], _EVIDENCE)
    return found


def upgrade_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head of a spooled record, of either kind, in the names of format 2."""
    deferred = "of" in head
    found = _renamed(head, _DEFERRED if deferred else _PREDICTION)
    if deferred:
        found["kind"] = KINDS[found["kind"]]
        found["stages"] = [upgrade_report(report) for report in found["stages"]]
    if found["verdict"] is not None:
        found["verdict"] = upgrade_verdict(found["verdict"])
    return found


def _renamed(value: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): inner for name, inner in value.items()}
