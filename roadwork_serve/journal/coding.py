"""Records as bytes, on their way from the ingress to the journal.

One byte for the version, four for the length of the head, the head as JSON, then binary data: features and media, whose
lengths the head states.

Versions: 1 was written before 0.1.0, with other names; it is still read, so that nothing in a spool is lost by an
update. 2 is written today. A record of a later version is rejected with ValueError; `JournalReplica` puts such a record
into the file `damaged` in the spool folder and logs it.
"""

import json
from dataclasses import fields
from typing import Any

import numpy as np

from roadwork_serve.journal.format_1 import upgrade_head
from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.journal.rows import REPORTS
from roadwork_serve.schema import Verdict

VERSION = 2
_READABLE = (1, VERSION)
_PLAIN = [each.name for each in fields(PredictionRecord) if each.name not in ("verdict", "features", "media")]


def encode(record: PredictionRecord | DeferredResult) -> bytes:
    """Return the record as bytes that `decode` reads."""
    blobs: list[bytes] = []
    if isinstance(record, PredictionRecord):
        features = None if record.features is None else np.ascontiguousarray(record.features, np.float16)
        head: dict[str, Any] = {name: getattr(record, name) for name in _PLAIN}
        head["features"] = None if features is None else features.shape
        head["media"] = None if record.media is None else len(record.media)
        text = json.dumps(head).encode()[:-1] + b', "verdict": ' + record.verdict.model_dump_json().encode() + b"}"
        blobs = [b"" if features is None else features.tobytes(), record.media or b""]
    else:
        verdict = b"null" if record.verdict is None else record.verdict.model_dump_json().encode()
        about = {"prediction_id": record.prediction_id, "created_at_s": record.created_at_s, "kind": record.kind}
        stages = REPORTS.dump_json(record.stages)
        text = json.dumps(about).encode()[:-1] + b', "stages": ' + stages + b', "verdict": ' + verdict + b"}"
    return b"".join((bytes([VERSION]), len(text).to_bytes(4, "big"), text, *blobs))


def decode(data: bytes) -> PredictionRecord | DeferredResult:
    """Return the record that `encode` wrote.

    Raises ValueError for bytes that are no record, or a record of a later version.
    """
    if not data or data[0] not in _READABLE:
        raise ValueError(f"version {data[0] if data else None} is later than {VERSION}; update the journal's replica")
    end = 5 + int.from_bytes(data[1:5], "big")
    try:
        head: dict[str, Any] = json.loads(data[5:end])
        if data[0] == 1:
            head = upgrade_head(head)
        verdict = None if head["verdict"] is None else Verdict.model_validate(head.pop("verdict"))
        if verdict is None or "prediction_id" in head:
            stages = REPORTS.validate_python(head["stages"])
            return DeferredResult(head["prediction_id"], head["created_at_s"], head["kind"], stages, verdict)
        shape, size = head.pop("features"), head.pop("media")
        features = None
        if shape is not None:
            features = np.frombuffer(data, np.float16, shape[0] * shape[1], end).reshape(shape)
            end += features.nbytes
        if len(data) != end + (size or 0):
            raise ValueError("it is cut off")
        return PredictionRecord(verdict=verdict, features=features, media=None if size is None else data[end:], **head)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its head does not fit: {error!r}") from None
