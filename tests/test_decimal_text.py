"""Numbers as HTTP writes them."""

import math

import pytest

from roadwork_serve.decimal_text import integer, number

FOREIGN = [
    "",
    " 10",
    "10 ",
    "+1",
    "1_0",
    "\u0661\u0660",
    "\uff11",
    "0x10",
    "1,0",
    "ten",
    "1\n",
    "\xa010",
    "--1",
    "\xb2",
]


@pytest.mark.parametrize("text", [*FOREIGN, "1.0", "1e3", "9" * 41])
def test_other_spellings_are_no_integers(text: str) -> None:
    with pytest.raises(ValueError, match="not an integer"):
        integer(text)


@pytest.mark.parametrize("text", [*FOREIGN, "inf", "nan", "Infinity", "1.", ".5", "1e", "1_0.0", "9" * 19])
def test_other_spellings_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        number(text)


def test_digits_are_read() -> None:
    assert [integer(text) for text in ("0", "-7", "007", "1700000000000000000")] == [
        0,
        -7,
        7,
        1_700_000_000_000_000_000,
    ]
    assert [number(text) for text in ("12", "0.5", "-1", "1e-05", "2E3")] == [12, 0.5, -1, 1e-5, 2000]
    assert number("1e999") == math.inf
