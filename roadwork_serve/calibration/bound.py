"""What a number of losses among a number of independent items proves, exactly."""

import math

from scipy.stats import binom


def p_value(losses: int, n: int, risk_limit: float) -> float:
    """The chance of so few losses among n items were the true share of them `max_loss`; 1 for no items.

    The binomial tail, as in the interval of Clopper and Pearson (1934): below 1 - confidence, the share is less.
    """
    return float(binom.cdf(losses, n, risk_limit)) if n else 1.0


def min_sample_size(risk_limit: float, confidence: float, loss: float = 0.0) -> int | None:
    """Items it takes to prove the bound when a share of `loss` of them is lost; None when it never can be.

    Without losses that is ln(1 - confidence) / ln(1 - max_loss).
    """
    if not loss < risk_limit:
        return None
    n = math.ceil(math.log1p(-confidence) / math.log1p(-risk_limit))
    step = n
    while p_value(math.ceil(loss * n), n, risk_limit) > 1 - confidence:
        n += step
        if n > 10**9:
            return None
    return n
