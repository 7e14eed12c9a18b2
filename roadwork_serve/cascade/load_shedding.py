"""Load shedding: as queues grow, exit bands narrow by the policy's degradation levels, and widen again afterwards."""

import time
from collections.abc import Sequence

from roadwork_serve.cascade.policy import Policy

CALM_S = 5.0  # the queueing time must stay below half of a level's for this long before the level is left
_CALM = 0.5


class LoadShedder:
    """A policy at the degradation level that the load requires. Rises at once, and falls by one level each CALM_S."""

    def __init__(self, policy: Policy) -> None:
        #: Current level; 0 is the policy itself.
        self.degradation_level = 0
        #: Number of levels of the policy.
        self.degradation_levels = len(policy.degradation_levels)
        self._thresholds_s = [level.queue_wait_ms / 1000 for level in policy.degradation_levels]
        self._policies: Sequence[Policy] = (
            policy,
            *(policy.narrow_bands(level.band_factor) for level in policy.degradation_levels),
        )
        self._busy_s = time.monotonic()

    def policy_for(self, queue_wait_s: float) -> Policy:
        """Return the policy to use while this is the longest queueing time of a stage, and adjust the level."""
        now = time.monotonic()
        required = sum(queue_wait_s >= threshold_s for threshold_s in self._thresholds_s)
        if required > self.degradation_level:
            self.degradation_level, self._busy_s = required, now
        elif self.degradation_level and queue_wait_s >= _CALM * self._thresholds_s[self.degradation_level - 1]:
            self._busy_s = now
        elif self.degradation_level and (steps := int((now - self._busy_s) / CALM_S)):
            self.degradation_level, self._busy_s = max(required, self.degradation_level - steps), now
        return self._policies[self.degradation_level]
