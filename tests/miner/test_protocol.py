import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.miner.protocol import Call, CallRejected, rounded_safely
from tests.miner.calls import VALIDATOR, headers


def raw(pairs: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in pairs]


def test_the_signed_text_is_that_of_the_dendrite() -> None:
    call = Call.read(raw(headers()), "ImageSynapse")
    assert VALIDATOR.verify(call.signed, call.signature)
    assert call.signed.endswith(b".a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a")


@given(st.lists(st.tuples(st.sampled_from([name for name, _ in headers()]), st.binary(max_size=80)), max_size=20))
def test_any_headers_are_parsed_or_rejected_with_400(changes: list[tuple[str, bytes]]) -> None:
    changed = dict(raw(headers())) | {name.encode(): value for name, value in changes}
    try:
        Call.read(changed.items(), "ImageSynapse")
    except CallRejected as refusal:
        assert refusal.status == 400


@given(st.floats(0, 1), st.booleans())
def test_the_subnet_rounds_a_prediction_to_the_label_and_it_is_never_a_half(probability: float, roadwork: bool) -> None:
    sent = rounded_safely(probability, roadwork)
    assert 0 <= sent <= 1 and sent != 0.5
    assert round(sent) == roadwork
    if (probability > 0.5) == roadwork and abs(probability - 0.5) > 1e-5:
        assert sent == pytest.approx(probability)
