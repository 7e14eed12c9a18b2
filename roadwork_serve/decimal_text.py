"""Numbers in headers, queries and forms: plain decimal digits, as HTTP and JSON write them.

Python's own conversions also take spaces, a plus sign, underscores and the digits of other scripts.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_INTEGER = re.compile(r"-?[0-9]{1,40}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def integer(text: str) -> int:
    """Return an integer of at most 40 digits. Raises ValueError."""
    if not _INTEGER.fullmatch(text):
        raise ValueError("not an integer in decimal digits")
    return int(text)


def number(text: str) -> float:
    """Return a finite or infinite number: digits, maybe with a fraction and an exponent. Raises ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number in decimal digits")
    return float(text)


def _checked_integer(value: object) -> object:
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise PydanticCustomError("int_parsing", "Input should be a valid integer, in decimal digits")
    return value


def _checked_number(value: object) -> object:
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise PydanticCustomError("float_parsing", "Input should be a valid number, in decimal digits")
    return value


#: Fields of a query or a header.
DecimalInt = Annotated[int, BeforeValidator(_checked_integer)]
DecimalFloat = Annotated[float, BeforeValidator(_checked_number)]
