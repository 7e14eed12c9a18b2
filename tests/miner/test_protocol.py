import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.miner.protocol import Call, CallRejected, rounded_safely
from tests.miner.calls import VALIDATOR, headers


def raw(told: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in told]


def test_what_is_signed_is_what_the_dendrite_signs() -> None:
    call = Call.read(raw(headers()), "ImageSynapse")
    assert VALIDATOR.verify(call.signed, call.signature)
    assert call.signed.endswith(b".a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a")


@given(st.lists(st.tuples(st.sampled_from([name for name, _ in headers()]), st.binary(max_size=80)), max_size=20))
def test_whatever_headers_say_they_are_read_or_refused_with_400(changes: list[tuple[str, bytes]]) -> None:
    told = dict(raw(headers())) | {name.encode(): value for name, value in changes}
    try:
        Call.read(told.items(), "ImageSynapse")
    except CallRejected as refusal:
        assert refusal.status == 400


@given(st.floats(0, 1), st.booleans())
def test_the_subnet_rounds_a_prediction_to_the_label_and_it_is_never_a_half(probability: float, roadwork: bool) -> None:
    said = rounded_safely(probability, roadwork)
    assert 0 <= said <= 1 and said != 0.5
    assert round(said) == roadwork
    if (probability > 0.5) == roadwork and abs(probability - 0.5) > 1e-5:
        assert said == pytest.approx(probability)
