"""Prometheus metrics of the miner."""

import math
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from roadwork_serve.subnet_reward import MCC_WINDOW, reward

_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 9.0)


class MinerMetrics:
    """Prometheus metrics in a registry of their own."""

    def __init__(self) -> None:
        """Register the metrics."""
        self.registry = registry = CollectorRegistry()
        self._rejected = Counter("roadwork_miner_rejected", "Calls rejected, by reason.", ["reason"], registry=registry)
        self._answers = Counter(
            "roadwork_miner_answers", "Calls answered with a prediction, by the stage of the exit.", ["exit"],
            registry=registry,
        )  # fmt: skip
        self._cache_hits = Counter(
            "roadwork_miner_cache_hits", "Calls answered with the verdict of another call on the same image.",
            registry=registry,
        )  # fmt: skip
        self._abstained = Counter(
            "roadwork_miner_abstained", "Calls answered with -1, because no stage made a prediction.",
            registry=registry,
        )  # fmt: skip
        self._call_seconds = Histogram(
            "roadwork_miner_call_seconds", "Time from the headers of a call to its answer in seconds.",
            buckets=_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._reward = Gauge(
            "roadwork_miner_reward", "Reward of the subnet for the last answers whose label is known.",
            registry=registry,
        )  # fmt: skip
        self._labeled = Gauge(
            "roadwork_miner_labeled_answers", "Number of answers that the reward is computed from.", registry=registry
        )
        self._age = Gauge(
            "roadwork_miner_metagraph_age_seconds", "Age of the metagraph in use in seconds; infinite without one.",
            registry=registry,
        )  # fmt: skip
        self._registered = Gauge(
            "roadwork_miner_registered", "1 if the hotkey is registered on the subnet.", registry=registry
        )
        self._failures = Gauge(
            "roadwork_miner_chain_failures", "Consecutive failures to read the chain.", registry=registry
        )
        for gauge in (self._reward, self._age, self._registered):
            gauge.set(math.nan)  # unknown, as it stays offline
        self._labels: deque[tuple[float, int]] = deque(maxlen=MCC_WINDOW)

    def record_rejection(self, reason: str) -> None:
        """Count a rejected call."""
        self._rejected.labels(reason).inc()

    def record_answer(self, stage: str, cached: bool, prediction: float, label: int) -> None:
        """Count an answered call.

        Args:
            stage: Stage of the exit.
            cached: The verdict is that of another call.
            prediction: P(road work) as sent.
            label: 1 or 0 if the label came with the call, as on the test net; else -1.
        """
        self._answers.labels(stage).inc()
        if cached:
            self._cache_hits.inc()
        if label >= 0:
            self._labels.append((prediction, label))
            self._labeled.set(len(self._labels))
            self._reward.set(reward([p > 0.5 for p, _ in self._labels], [label == 1 for _, label in self._labels]))

    def record_abstention(self) -> None:
        """Count a call on which no stage made a prediction."""
        self._abstained.inc()

    def record_duration(self, seconds: float) -> None:
        """Record the time from the headers of a call to its answer."""
        self._call_seconds.observe(seconds)

    def set_chain(self, age_s: float | None, registered: bool | None, failures: int) -> None:
        """Set the state of the chain.

        Args:
            age_s: Age of the metagraph in seconds; None without one.
            registered: The hotkey is registered; None if unknown.
            failures: Consecutive failures to read the chain.
        """
        self._age.set(math.inf if age_s is None else age_s)
        self._registered.set(math.nan if registered is None else float(registered))
        self._failures.set(failures)

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self.registry)
