"""Exact tests of an error rate from a number of independent items."""

import math

from scipy.special import bdtr


def p_value(errors: int, n: int, risk_limit: float) -> float:
    """Return the probability of so few errors among n items if their true rate were `risk_limit`; 1 for no items.

    The binomial tail, as in the interval of Clopper and Pearson (1934). Below 1 - confidence, the rate is proven lower.
    """
    return float(bdtr(errors, n, risk_limit)) if n else 1.0


def min_sample_size(risk_limit: float, confidence: float, error_rate: float = 0.0) -> int | None:
    """Return the number of items needed to prove the bound at this error rate; None when no number is enough.

    Without errors that is ln(1 - confidence) / ln(1 - risk_limit).
    """
    if not error_rate < risk_limit:
        return None
    n = math.ceil(math.log1p(-confidence) / math.log1p(-risk_limit))
    step = n
    while p_value(math.ceil(error_rate * n), n, risk_limit) > 1 - confidence:
        n += step
        if n > 10**9:
            return None
    return n
