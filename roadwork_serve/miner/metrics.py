"""What the miner counts, and what its answers would earn where the truth is known."""

import math
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from roadwork_serve.subnet_reward import MCC_WINDOW, reward

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 9.0)


class MinerMetrics:
    """Metrics for Prometheus, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = one = CollectorRegistry()
        self._refused = Counter("roadwork_miner_refused", "Calls that were refused", ["reason"], registry=one)
        self._answered = Counter("roadwork_miner_answered", "Calls that were answered", ["exit"], registry=one)
        self._known = Counter("roadwork_miner_known", "Of these, by an answer that was known already", registry=one)
        self._silent = Counter("roadwork_miner_silent", "Calls of which nothing could be said: -1", registry=one)
        self._seconds = Histogram("roadwork_miner_seconds", "From headers to answer", buckets=_SECONDS, registry=one)
        self._reward = Gauge("roadwork_miner_reward", "Reward for the last answers whose label is known", registry=one)
        self._labels = Gauge("roadwork_miner_labelled", "Answers that the reward goes by", registry=one)
        self._age = Gauge("roadwork_miner_metagraph_age_seconds", "Of what calls are judged by", registry=one)
        self._registered = Gauge("roadwork_miner_registered", "1 where the hotkey is on the subnet", registry=one)
        self._failures = Gauge("roadwork_miner_chain_failures", "Readings of the chain that failed since", registry=one)
        for gauge in (self._reward, self._age, self._registered):
            gauge.set(math.nan)  # unknown, as it stays offline
        self._told: deque[tuple[float, int]] = deque(maxlen=MCC_WINDOW)

    def refused(self, reason: str) -> None:
        """A call was refused."""
        self._refused.labels(reason).inc()

    def answered(self, stage: str, known: bool, said: float, label: int) -> None:
        """A call was answered. label: 1 or 0 where the truth came with it, as on the test net; else -1."""
        self._answered.labels(stage).inc()
        if known:
            self._known.inc()
        if label >= 0:
            self._told.append((said, label))
            self._labels.set(len(self._told))
            self._reward.set(reward([said > 0.5 for said, _ in self._told], [label == 1 for _, label in self._told]))

    def silent(self) -> None:
        """Nothing could be said."""
        self._silent.inc()

    def took(self, seconds: float) -> None:
        """From headers to answer."""
        self._seconds.observe(seconds)

    def chain(self, age_s: float | None, registered: bool | None, failures: int) -> None:
        """How it stands with the chain. age_s: of the metagraph; infinite in the metrics where there is none."""
        self._age.set(math.inf if age_s is None else age_s)
        self._registered.set(math.nan if registered is None else float(registered))
        self._failures.set(failures)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
