"""What a number of losses among a number of independent items proves, exactly."""

import math

from scipy.stats import binom


def p_value(losses: int, n: int, max_loss: float) -> float:
    """The chance of so few losses among n items were the true share of them `max_loss`; 1 for no items.

    The binomial tail, as in the interval of Clopper and Pearson (1934): below 1 - confidence, the share is less.
    """
    return float(binom.cdf(losses, n, max_loss)) if n else 1.0


def min_sample_size(max_loss: float, confidence: float, loss: float = 0.0) -> int | None:
    """Items it takes to prove the bound when a share of `loss` of them is lost; None when it never can be.

    Without losses that is ln(1 - confidence) / ln(1 - max_loss).
    """
    if not loss < max_loss:
        return None
    n = math.ceil(math.log1p(-confidence) / math.log1p(-max_loss))
    step = n
    while p_value(math.ceil(loss * n), n, max_loss) > 1 - confidence:
        n += step
        if n > 10**9:
            return None
    return n
