"""Entries of YAML or JSON, checked: every mistake is a ConfigError that names the place and what to write there."""

import math
import sys
from collections.abc import Mapping, Sequence, Set
from typing import cast

from roadwork_serve.errors import ConfigError


def entries_of(value: object, where: str, required: Set[str], optional: Set[str]) -> Mapping[str, object]:
    """The entries of a mapping, when it has those required and no unknown ones."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r} is not a mapping; write its entries as `name: value`")
    entries = cast("Mapping[str, object]", value)
    for name in entries:
        if name not in required | optional:
            raise ConfigError(f"{where}: unknown entry {name!r}; known are {', '.join(sorted(required | optional))}")
    for name in sorted(required - entries.keys()):
        raise ConfigError(f"{where}: {name} is missing; add it")
    return entries


def items_of(value: object, where: str, what: str) -> Sequence[object]:
    """The items of a list. what: they are, for the message."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: {value!r} is not a list; write {what}")
    return cast("Sequence[object]", value)


def number(value: object, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {value!r} is not a number")
    if not -sys.float_info.max <= value <= sys.float_info.max:  # false for NaN too
        raise ConfigError(f"{where}: {value} is not a finite number")
    if not low <= value <= high:
        allowed = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        raise ConfigError(f"{where}: {value:g} is out of range; write {allowed}")
    return float(value)
