"""Answers a second grow with the replicas of the ingress."""

import statistics

from benchmarks.ingress import measure


def test_three_replicas_answer_more_than_one() -> None:
    one, three = (measure(replicas, 0.12, 4.0, 2) for replicas in (1, 3))
    assert (one.refused, three.refused) == (0, 0)
    assert statistics.median(three.per_s) > 1.5 * statistics.median(one.per_s)
