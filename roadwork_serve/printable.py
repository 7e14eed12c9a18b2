"""Text of others, made safe for a terminal, a log or a table.

Servers, files and models may put into a text what a terminal obeys: colors, titles, the clipboard, hyperlinks, moved
cursors, or a reversed direction of writing. Every such text passes here before it is shown.
"""

import logging
import re

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Whole sequences (ECMA-48), with ESC or as C1 controls: strings (OSC, DCS, SOS, PM, APC) up to their end, and CSI.
_SEQUENCE = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
)
# C0 but tab and newline, DEL, C1, controls of direction, separators of lines, and halves of surrogate pairs.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_SPACE = re.compile(r"[\t\n]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTES = range(0xDC80, 0xDD00)  # what Python makes of the bytes of a file name that are not UTF-8 (PEP 383)


def printable(text: str) -> str:
    """Return a text on one line, without what a terminal would obey."""
    return _SPACE.sub(" ", printable_lines(text))


def printable_lines(text: str) -> str:
    """Return a text with its lines and tabs, without what a terminal would obey."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(_REPLACEMENT, _SEQUENCE.sub(_REPLACEMENT, text.replace("\r\n", "\n")))


def printable_json(text: str) -> str:
    """Return JSON with the same meaning, whose strings have escapes for what a terminal would obey."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def writable(text: str) -> str:
    r"""Return a text that UTF-8, and so JSON and Parquet, can hold: `stra\xdfe.jpg` for a name in Latin-1."""
    return _SURROGATE.sub(lambda match: _escape(ord(match[0])), text)


def without_formula(text: str) -> str:
    """Return a text of others, printable, with an apostrophe in front if a spreadsheet would run it as a formula."""
    safe = printable_lines(text)
    return f"'{safe}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else safe


def _escape(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if code in _BYTES else f"\\u{code:04x}"


class PrintableRecords(logging.Filter):
    """Makes the messages and the tracebacks of log records safe. A message is one line, so that it forges no other."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the text of a record, and keep it."""
        message = record.getMessage()
        if (safe := printable(message)) != message:
            record.msg, record.args = safe, None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = printable_lines(record.exc_text)
        return True


def make_logs_printable(logger: logging.Logger) -> None:
    """Filter everything that the handlers of a logger write."""
    for handler in logger.handlers:
        if not any(isinstance(each, PrintableRecords) for each in handler.filters):
            handler.addFilter(PrintableRecords())
