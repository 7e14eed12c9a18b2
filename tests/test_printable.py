"""Text of others before it reaches a terminal, a log or a table."""

import json
import logging
import os
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.printable import (
    PrintableRecords,
    make_logs_printable,
    printable,
    printable_json,
    printable_lines,
    without_formula,
    writable,
)

MARK = "\N{REPLACEMENT CHARACTER}"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("road work", "road work"),
        ("Baustelle, travaux, 工事中, дорога, 👷‍♀️", "Baustelle, travaux, 工事中, дорога, 👷‍♀️"),
        ("a\x1b]0;title\x07b", f"a{MARK}b"),
        ("a\x1b]52;c;cm0gLXJmIC8=\x1b\\b", f"a{MARK}b"),
        ("a\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\b", f"a{MARK}link{MARK}b"),
        ("a\x9d0;title\x9cb", f"a{MARK}b"),
        ("a\x1bPq#0;2\x1b\\b", f"a{MARK}b"),
        ("a\x1b[31;1mred\x1b[0m\x1b[2J\x1b[Hb", f"a{MARK}red{MARK}{MARK}{MARK}b"),
        ("a\x9b31mb", f"a{MARK}b"),
        ("a\x1bcb", f"a{MARK}cb"),
        ("a\x1b]never ends", f"a{MARK}"),
        ("\u202eevil\u202c\u2066x\u2069\u200e\u200f\u061c", f"{MARK}evil{MARK}{MARK}x{MARK}{MARK}{MARK}{MARK}"),
        ("a\x00\x08\x7f\x85\u2028b", f"a{MARK}{MARK}{MARK}{MARK}{MARK}b"),
        ("a\rb", f"a{MARK}b"),
        ("a\ud800b", f"a{MARK}b"),
    ],
)
def test_what_a_terminal_obeys_is_replaced(text: str, safe: str) -> None:
    assert printable(text) == safe
    assert printable_lines(text) == safe


def test_lines_are_kept_only_where_there_may_be_several() -> None:
    assert printable_lines("a\r\n\tb\nc") == "a\n\tb\nc"
    assert printable("a\r\n\tb\nc") == "a b c"


@settings(deadline=None)
@given(st.text(st.characters() | st.sampled_from("\x1b\x9b\x9d\x07\x9c[];\\m\r\n")))
def test_nothing_unsafe_is_left(text: str) -> None:
    for safe in (printable_lines(text), printable(text)):
        assert UNSAFE.search(safe) is None
        assert not any(unicodedata.category(each) in ("Cc", "Cs") for each in safe if each not in "\n\t")
        safe.encode()
    assert "\n" not in printable(text) and printable(printable(text)) == printable(text)


@settings(deadline=None)
@given(st.text())
def test_json_keeps_its_meaning(text: str) -> None:
    safe = printable_json(json.dumps({"text": text}, ensure_ascii=False))
    assert UNSAFE.search(safe) is None
    assert json.loads(safe) == {"text": text}


def test_a_log_line_and_its_traceback_are_safe() -> None:
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger = logging.Logger("foreign")
    logger.addHandler(Collector())
    make_logs_printable(logger)
    make_logs_printable(logger)
    assert [type(each) for each in logger.handlers[0].filters] == [PrintableRecords]
    logger.warning("%s answered %s", "the server", "\x1b]0;x\x07ok\nERROR forged")
    try:
        raise ValueError("\x1b[31mevil\u202e")
    except ValueError:
        logger.exception("failed: %d", 3)
    assert lines[0] == f"the server answered {MARK}ok ERROR forged"
    assert lines[1].startswith("failed: 3\nTraceback") and lines[1].endswith(f"ValueError: {MARK}evil{MARK}")


@pytest.mark.parametrize(
    ("name", "written"),
    [(b"stra\xdfe.jpg", r"stra\xdfe.jpg"), ("straße.jpg".encode(), "straße.jpg"), (b"\xff\x80", r"\xff\x80")],
)
def test_any_file_name_can_be_written(name: bytes, written: str) -> None:
    assert writable(os.fsdecode(name)) == written


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_utf8(text: str) -> None:
    assert writable(writable(text)) == writable(text)
    writable(text).encode()


def test_half_a_surrogate_pair_is_written_as_an_escape() -> None:
    assert writable("a\ud83d") == r"a\ud83d"


def test_a_cell_for_a_spreadsheet_is_safe() -> None:
    assert without_formula("\x1b]0;x\x07=1+1") == f"{MARK}=1+1"
    assert without_formula("\t=1+1\x9b31m") == f"'\t=1+1{MARK}"
    assert without_formula("two\nlines") == "two\nlines"
