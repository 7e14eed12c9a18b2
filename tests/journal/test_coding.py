from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.journal.coding import VERSION, decode, encode
from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from tests.journal.made import audit, entry, report, verdict


def same(one: PredictionRecord | DeferredResult, other: PredictionRecord | DeferredResult) -> bool:
    assert type(one) is type(other)
    return all(
        np.array_equal(getattr(one, each.name), getattr(other, each.name))
        if each.name == "features"
        else getattr(one, each.name) == getattr(other, each.name)
        for each in fields(one)
    )


@pytest.mark.parametrize(
    "record",
    [
        entry("a", media=b"\xff\xd8\xff photo", audit_rate=0.25, key="camera 7"),
        entry("b", features=None, verdict={"arm": "b", "shadow": "other", "audit_rate": 0.5}),
        entry("c", features=np.arange(12, dtype=np.float16).reshape(3, 4), media=b""),
        audit("a", report("vlm", 0.25), report("signs", None)),
        DeferredResult("a", 5.0, "shadow", verdict=verdict("a", 0.1)),
    ],
)
def test_a_record_round_trips_through_its_encoding(record: PredictionRecord | DeferredResult) -> None:
    assert same(decode(encode(record)), record)


@given(st.data())
def test_truncated_records_and_other_versions_are_rejected(data: st.DataObject) -> None:
    whole = encode(entry("a", media=bytes(50)))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError):
        decode(whole[:cut])
    with pytest.raises(ValueError, match="update the journal"):
        decode(bytes([VERSION + 1]) + whole[1:])


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error(garbage: bytes) -> None:
    with pytest.raises(ValueError):
        decode(bytes([VERSION]) + garbage)


def test_numbers_keep_all_their_digits() -> None:
    one = replace(entry("a"), created_at_s=1763871234.123456789, audit_rate=1 / 3)
    decoded = decode(encode(one))
    assert isinstance(decoded, PredictionRecord)
    assert (decoded.created_at_s, decoded.audit_rate) == (one.created_at_s, one.audit_rate)
