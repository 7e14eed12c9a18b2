"""What a stage's raw log-odds are worth by themselves: the calibration curve, as data.

Every curve rises, or at least does not fall. `Linear` is temperature scaling (Guo et al., 2017) and Platt's (1999);
`Beta` is beta calibration (Kull et al., 2017): its logit is a ln p - b ln(1 - p) + c; `Isotonic` is isotonic regression.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from roadwork_serve.cascade.parsing import entries_of, items_of, number
from roadwork_serve.errors import ConfigError

FAR = 1e6  # where an infinite logit is cut off
MAX_KNOTS = 256


@dataclass(frozen=True, slots=True)
class Linear:
    """slope x logit + offset."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, logit: float) -> float:
        """Calibrated log-odds."""
        return self.slope * logit + self.offset


@dataclass(frozen=True, slots=True)
class Beta:
    """a ln p - b ln(1 - p) + c of the probability p that the logit stands for."""

    a: float
    b: float
    c: float

    def __call__(self, logit: float) -> float:
        """Calibrated log-odds."""
        return -self.a * _softplus(-logit) + self.b * _softplus(logit) + self.c


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight between points, level beyond them. at: rising. to: not falling, as many."""

    at: tuple[float, ...]
    to: tuple[float, ...]

    def __call__(self, logit: float) -> float:
        """Calibrated log-odds."""
        if logit <= self.at[0]:
            return self.to[0]
        if logit >= self.at[-1]:
            return self.to[-1]
        right = bisect_right(self.at, logit)
        x0, x1, y0, y1 = self.at[right - 1], self.at[right], self.to[right - 1], self.to[right]
        return y0 + (y1 - y0) * (logit - x0) / (x1 - x0)


Curve = Linear | Beta | Isotonic


def curve_mapping(curve: Curve) -> dict[str, Any]:
    """Plain data that `read_curve` reads back into an equal curve."""
    match curve:
        case Linear():
            return {"kind": "line", "slope": curve.slope, "offset": curve.offset}
        case Beta():
            return {"kind": "beta", "a": curve.a, "b": curve.b, "c": curve.c}
        case Isotonic():
            return {"kind": "knots", "at": list(curve.at), "to": list(curve.to)}


def read_curve(value: object, where: str) -> Curve:
    """A curve from what YAML or JSON holds. Raises ConfigError naming the entry to mend."""
    kind = entries_of(value, where, {"kind"}, {"slope", "offset", "a", "b", "c", "at", "to"})["kind"]
    match kind:
        case "line":
            entries = entries_of(value, where, {"kind", "slope"}, {"offset"})
            return Linear(
                _worth(entries["slope"], f"{where}.slope", 0), _worth(entries.get("offset", 0.0), f"{where}.offset")
            )
        case "beta":
            entries = entries_of(value, where, {"kind", "a", "b", "c"}, set())
            a, b = (_worth(entries[name], f"{where}.{name}", 0) for name in ("a", "b"))
            return Beta(a, b, _worth(entries["c"], f"{where}.c"))
        case "knots":
            entries = entries_of(value, where, {"kind", "at", "to"}, set())
            at, to = (_row(entries[name], f"{where}.{name}") for name in ("at", "to"))
            return _knots(at, to, where)
        case _:
            raise ConfigError(f"{where}.kind: {kind!r} is no curve; write line, beta or knots")


def _knots(at: tuple[float, ...], to: tuple[float, ...], where: str) -> Isotonic:
    if not 1 <= len(at) <= MAX_KNOTS or len(at) != len(to):
        raise ConfigError(f"{where}: {len(at)} and {len(to)} knots; write as many in `to` as in `at`, 1 to {MAX_KNOTS}")
    if any(left >= right for left, right in pairwise(at)) or any(left > right for left, right in pairwise(to)):
        raise ConfigError(f"{where}: knots must rise in `at` and not fall in `to`; sort them")
    return Isotonic(at, to)


def _row(value: object, where: str) -> tuple[float, ...]:
    return tuple(_worth(each, f"{where}[{index}]") for index, each in enumerate(items_of(value, where, "numbers")))


def _worth(value: object, where: str, low: float = -FAR) -> float:
    return number(value, where, low, FAR)


def _softplus(x: float) -> float:
    """ln(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
