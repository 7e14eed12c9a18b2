"""Score intervals for differences of accuracies. They stay valid when the two sides never differ on the sample."""

import math

from scipy.optimize import brentq
from scipy.stats import norm

_NEAR = 1e-9


def paired_low(gained: float, lost: float, n: float, confidence: float) -> float:
    """Return the one-sided lower bound of (gained - lost) / n for n pairs, of which `gained` + `lost` differ.

    The score interval of Tango (1998). When none differ it is -z^2 / (n + z^2).
    """
    z, found = float(norm.ppf(confidence)), (gained - lost) / n

    def over(difference: float) -> float:
        b = (2 * n - gained + lost) * difference - gained - lost
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * difference * (1 - difference))) - b) / (4 * n)
        variance = max(0.0, n * (2 * q + difference * (1 - difference)))
        return gained - lost - n * difference - z * math.sqrt(variance)

    near = found - _NEAR  # at `found` itself it may be 0 as well
    if near <= -1 or over(-1.0) <= 0:
        return -1.0
    return found if over(near) >= 0 else float(brentq(over, -1.0, near))  # pyright: ignore[reportArgumentType]


def unpaired_low(right: float, n: float, base_right: float, base_n: float, confidence: float) -> float:
    """Return the one-sided lower bound of right / n - base_right / base_n for two independent samples.

    Combines the Wilson score intervals of both (Newcombe, 1998, method 10).
    """
    (low, _), (_, high) = wilson(right, n, confidence), wilson(base_right, base_n, confidence)
    share, base = right / n, base_right / base_n
    return share - base - math.hypot(share - low, high - base)


def wilson(right: float, n: float, confidence: float) -> tuple[float, float]:
    """Return the lower and upper bound of a share, each one-sided at the confidence (Wilson, 1927)."""
    z, share = float(norm.ppf(confidence)), right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)
