"""Checks on a run: nothing is lost, nothing grows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.chaos.checks import Check
from benchmarks.soak.load import Request
from benchmarks.soak.samples import Sample, course

MEMORY_GROWTH = 0.03
COUNT_GROWTH = 0.01  # of descriptors and threads: connections come and go
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Observations:
    """The observations of a run."""

    #: Duration of the load.
    minutes: float
    requests: Sequence[Request]
    samples: Sequence[Sample]
    #: Rows of the journal by request id.
    rows: Mapping[str, int]
    #: Records that the journal reported as lost.
    dropped: int
    #: Replicas of Ray Serve before and after, by process id.
    replicas_before: frozenset[int]
    replicas_after: frozenset[int]
    #: Work that remained after the load, by ingress replica; empty if none responded.
    leftovers: Mapping[str, Mapping[str, int]]


def checks(seen: Observations) -> list[Check]:
    """Return all checks."""
    return [_answers(seen), *_journal(seen), *_growth(seen.samples), _replicas(seen), _leftovers(seen)]


def outcomes(requests: Sequence[Request]) -> dict[str, int]:
    """Return the number of requests by outcome."""
    return dict(Counter(request.outcome for request in requests).most_common())


def _answers(seen: Observations) -> Check:
    bad = [request for request in seen.requests if request.outcome in ("wrong", "unanswered", "cut off")]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes(seen.requests).items())
    examples = [f"{r.request_id} ({r.kind}, {r.form}): {r.outcome} {r.detail}" for r in bad]
    return Check(
        "every request got an answer of the right kind, or its client hung up", not bad, counts + _tail(examples)
    )


def _journal(seen: Observations) -> list[Check]:
    answered = {request.request_id for request in seen.requests if request.outcome == "answered"}
    lost = sorted(answered - set(seen.rows))
    twice = sorted(name for name, count in seen.rows.items() if count > 1)
    may_have_row = {r.request_id for r in seen.requests if r.outcome in ("answered", "hung up", "refused")}
    foreign = sorted(set(seen.rows) - may_have_row)
    more = len(set(seen.rows) - answered)
    return [
        Check(
            "every answer is in the journal",
            not lost and seen.dropped == 0,
            f"{len(answered) - len(lost)} of {len(answered)}, {seen.dropped} dropped" + _tail(lost),
        ),
        Check("no request is in the journal twice", not twice, f"{sum(seen.rows.values())} rows" + _tail(twice)),
        Check(
            "every other row is of a client that hung up, or of a deadline",
            not foreign,
            f"{more} rows" + _tail(foreign),
        ),
    ]


def _growth(samples: Sequence[Sample]) -> list[Check]:
    memory = course([sample.tree.memory_mib for sample in samples])
    descriptors = course([sample.tree.descriptors for sample in samples])
    threads = course([sample.tree.threads for sample in samples])
    found = [
        Check(
            f"memory at the end is at most {MEMORY_GROWTH:.0%} above that in the middle",
            memory.growth <= MEMORY_GROWTH,
            f"{memory.start:.0f}, {memory.middle:.0f}, {memory.end:.0f} MiB: {memory.growth:+.1%}",
        )
    ]
    for what, counted in (("descriptors", descriptors), ("threads", threads)):
        found.append(
            Check(
                f"{what} at the end are those in the middle, but for {COUNT_GROWTH:.0%}",
                counted.growth <= COUNT_GROWTH,
                f"{counted.start:.0f}, {counted.middle:.0f}, {counted.end:.0f}",
            )
        )
    return found


def _replicas(seen: Observations) -> Check:
    gone = sorted(seen.replicas_before - seen.replicas_after)
    return Check(
        "no replica was replaced",
        bool(seen.replicas_before) and seen.replicas_before == seen.replicas_after,
        f"{len(seen.replicas_before)} before, {len(seen.replicas_after)} after" + _tail([str(pid) for pid in gone]),
    )


def _leftovers(seen: Observations) -> Check:
    remaining = {name: {kind: n for kind, n in work.items() if n} for name, work in seen.leftovers.items()}
    observed = ", ".join(f"{name}: {work or 'nothing'}" for name, work in remaining.items()) or "no replica responded"
    return Check("the server is idle after the load", bool(remaining) and not any(remaining.values()), observed)


def _tail(found: Sequence[str]) -> str:
    return ": " + "; ".join(found[:_EXAMPLES]) + ("; ..." if len(found) > _EXAMPLES else "") if found else ""
