"""A token bucket: the rate limit of an API key, and of a hotkey that calls the miner."""

from dataclasses import dataclass

_ROUNDING = 1e-9


@dataclass(slots=True)
class TokenBucket:
    """A rate limit in tokens a minute that allows bursts of a minute's worth, and of one token at least.

    The bucket starts full. The rate is an argument of each call, because it may change with the configuration.
    """

    #: Tokens spent and not refilled yet.
    spent: float = 0.0
    #: Time of the last refill in seconds.
    updated_s: float = 0.0

    def wait_s(self, tokens: float, per_minute: float, now_s: float) -> float:
        """Return the seconds until so many tokens are available, 0 if they are now."""
        self.spent = max(0.0, self.spent - (now_s - self.updated_s) * per_minute / 60)
        self.updated_s = now_s
        missing = self.spent + tokens - max(1.0, per_minute)
        return missing * 60 / per_minute if missing > _ROUNDING else 0.0

    def take(self, tokens: float, per_minute: float, now_s: float) -> float:
        """Take tokens and return 0; if there are too few, take none and return the seconds until there are enough."""
        wait_s = self.wait_s(tokens, per_minute, now_s)
        if not wait_s:
            self.spent += tokens
        return wait_s
