"""Gears: as queues grow, items leave sooner, in the steps that the policy declares, and later again when it is calm."""

import time
from collections.abc import Sequence

from roadwork_serve.cascade.policy import Policy

CALM_S = 5.0  # for so long the wait must be below half of what a gear begins at, before it is left
_CALM = 0.5


class LoadShedder:
    """A policy in the gear that the load calls for. Shifts up at once, and down by one each CALM_S of calm."""

    def __init__(self, policy: Policy) -> None:
        self.degradation_level = 0
        self.degradation_levels = len(policy.degradation_levels)
        self._starts_s = [degradation_level.queue_wait_ms / 1000 for degradation_level in policy.degradation_levels]
        self._policies: Sequence[Policy] = (
            policy,
            *(policy.narrowed(degradation_level.keep) for degradation_level in policy.degradation_levels),
        )
        self._pressed_s = time.monotonic()

    def shift(self, wait_s: float) -> Policy:
        """The policy to use while the longest wait for a stage is so many seconds."""
        now = time.monotonic()
        wanted = sum(wait_s >= start_s for start_s in self._starts_s)
        if wanted > self.degradation_level:
            self.degradation_level, self._pressed_s = wanted, now
        elif self.degradation_level and wait_s >= _CALM * self._starts_s[self.degradation_level - 1]:
            self._pressed_s = now
        elif self.degradation_level and (steps := int((now - self._pressed_s) / CALM_S)):
            self.degradation_level, self._pressed_s = max(wanted, self.degradation_level - steps), now
        return self._policies[self.degradation_level]
