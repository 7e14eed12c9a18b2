"""Records as bytes, for the way from the ingress to the journal.

A byte for the version, four for the length of the head, the head as JSON, and behind it what is no text: the features
and the media, whose lengths the head tells.
"""

import json
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.schema import StageReport, Verdict

VERSION = 1
_REPORTS = TypeAdapter(tuple[StageReport, ...])


def encode(record: PredictionRecord | DeferredResult) -> bytes:
    """The record as bytes that `decode` reads."""
    blobs: list[bytes] = []
    if isinstance(record, PredictionRecord):
        features = None if record.features is None else np.ascontiguousarray(record.features, np.float16)
        head: dict[str, Any] = {
            "id": record.id,
            "at_s": record.at_s,
            "origin": record.origin,
            "caller": record.caller,
            "key": record.key,
            "policy_revision": record.policy_revision,
            "sha256": record.sha256,
            "size": record.size,
            "features_model": record.features_model,
            "audit": record.audit,
            "features": None if features is None else features.shape,
            "media": None if record.media is None else len(record.media),
        }
        text = json.dumps(head).encode()[:-1] + b', "verdict": ' + record.verdict.model_dump_json().encode() + b"}"
        blobs = [b"" if features is None else features.tobytes(), record.media or b""]
    else:
        verdict = b"null" if record.verdict is None else record.verdict.model_dump_json().encode()
        about = json.dumps({"of": record.of, "at_s": record.at_s, "kind": record.kind}).encode()
        stages = _REPORTS.dump_json(record.stages)
        text = about[:-1] + b', "stages": ' + stages + b', "verdict": ' + verdict + b"}"
    return b"".join((bytes([VERSION]), len(text).to_bytes(4, "big"), text, *blobs))


def decode(data: bytes) -> PredictionRecord | DeferredResult:
    """What `encode` made bytes of. Raises ValueError where these are no record, or one of a later version."""
    if not data or data[0] != VERSION:
        raise ValueError(f"version {data[0] if data else None} is not {VERSION}; update the journal's side")
    end = 5 + int.from_bytes(data[1:5], "big")
    try:
        head: dict[str, Any] = json.loads(data[5:end])
        if "of" in head:
            verdict = None if head["verdict"] is None else Verdict.model_validate(head["verdict"])
            stages = _REPORTS.validate_python(head["stages"])
            return DeferredResult(head["of"], head["at_s"], head["kind"], stages, verdict)
        shape, size = head.pop("features"), head.pop("media")
        features = None
        if shape is not None:
            features = np.frombuffer(data, np.float16, shape[0] * shape[1], end).reshape(shape)
            end += features.nbytes
        if len(data) != end + (size or 0):
            raise ValueError("it is cut off")
        verdict = Verdict.model_validate(head.pop("verdict"))
        return PredictionRecord(verdict=verdict, features=features, media=None if size is None else data[end:], **head)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its head does not fit: {error!r}") from None
