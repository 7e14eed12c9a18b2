"""Checks on a chaos run: each has a claim, its outcome, and the observation."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.chaos.figures import Kill, PhaseFigures, outcomes, share
from benchmarks.chaos.outcomes import Record
from benchmarks.chaos.plan import STAGES
from benchmarks.chaos.versions import PolicyPeriod, allowed_versions, contradiction

SLACK_S = 0.05  # tolerated delay of an answer after its deadline
LATE_SHARE = 0.01
GOODPUT_KEPT = 0.8
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Check:
    """A claim about a run, and its outcome."""

    claim: str
    passed: bool
    #: The observation, as text.
    observed: str
    #: Depends on the load of the machine.
    timing_dependent: bool = False


@dataclass(frozen=True, slots=True)
class Observations:
    """The observations of a run."""

    sent: int
    records: Sequence[Record]
    phases: Sequence[PhaseFigures]
    kills: Sequence[Kill]
    periods: Sequence[PolicyPeriod]
    #: Policy changes that succeeded, including rollbacks.
    changes: int
    #: Policy changes in the plan.
    planned_changes: int
    #: Remaining work of each ingress replica a second after the load; empty if none responded.
    leftovers: Mapping[str, Mapping[str, int]]
    #: Ingress replicas.
    replicas: int


def checks(observations: Observations) -> list[Check]:
    """Return all checks."""
    return [
        _balance(observations),
        _none_with_outcome("every request got an answer", observations.records, "unanswered"),
        _none_with_outcome("every reply was of the right kind", observations.records, "wrong"),
        _answered_once(observations.records),
        _versions(observations),
        _contents(observations),
        _changes(observations),
        _in_time(observations.records),
        _recovered(observations.kills),
        _goodput(observations.phases),
        _reached(observations.records),
        _leftovers(observations),
    ]


def late(records: Sequence[Record]) -> list[Record]:
    """Return answers later than deadline and slack, beyond the lag of the load generator; worst first."""
    found = [r for r in records if r.outcome == "answered" and not r.in_time(SLACK_S)]
    return sorted(found, key=lambda record: record.late_s, reverse=True)


def _balance(observations: Observations) -> Check:
    counted = outcomes(observations.records)
    answered, refused, errors = counted["answered"], counted["refused"] + counted["cut off"], counted["client error"]
    return Check(
        "sent = answered + refused + client errors",
        observations.sent == answered + refused + errors,
        f"{observations.sent} = {answered} + {refused} ({counted['cut off']} of them cut off) + {errors}",
    )


def _none_with_outcome(claim: str, records: Sequence[Record], outcome: str) -> Check:
    found = [record for record in records if record.outcome == outcome]
    return Check(claim, not found, _examples([f"{r.request_id} ({r.kind}, {r.phase}): {r.detail}" for r in found]))


def _answered_once(records: Sequence[Record]) -> Check:
    """Check that every request has one reply. A reply with another request's id has the outcome `wrong`."""
    requests = Counter(record.request_id for record in records)
    verdicts = Counter(record.verdict.request_id for record in records if record.verdict is not None)
    twice = [each for each, count in (*requests.items(), *verdicts.items()) if count > 1]
    return Check("no request was answered twice", not twice, f"{len(verdicts)} verdicts" + _tail(twice))


def _versions(observations: Observations) -> Check:
    breaches: list[str] = []
    exact = 0
    for record, version in _answered(observations.records):
        allowed = allowed_versions(observations.periods, record.sent_s, record.ended_s)
        exact += len(allowed) == 1
        if version not in allowed:
            breaches.append(f"{record.request_id} has {version}, not one of {sorted(allowed)}")
    observed = len({version for _, version in _answered(observations.records)})
    claim = "every verdict has the version of a policy that was active"
    return Check(
        claim, not breaches, f"{observed} versions, for {exact} verdicts only one was possible" + _tail(breaches)
    )


def _contents(observations: Observations) -> Check:
    policies = {period.version: period.policy for period in observations.periods}
    breaches: list[str] = []
    for record, version in _answered(observations.records):
        policy = policies.get(version)
        if policy and record.verdict and (found := contradiction(record.verdict, policy)):
            breaches.append(f"{record.request_id} of {version}: {found}")
    claim = "every verdict follows a single policy: its stages, its bands"
    return Check(claim, not breaches, _examples(breaches))


def _changes(observations: Observations) -> Check:
    observed = f"{observations.changes} of {observations.planned_changes}"
    return Check(
        "the policy was swapped and rolled back as planned",
        observations.changes == observations.planned_changes,
        observed,
    )


def _in_time(records: Sequence[Record]) -> Check:
    found, answered = late(records), outcomes(records)["answered"]
    observed = f"{len(found)} of {answered}"
    if found:
        worst = found[0]
        inside = (
            f", {worst.verdict.elapsed_ms:.0f} ms of {1000 * worst.took_s:.0f} in the server" if worst.verdict else ""
        )
        observed += f"; worst {1000 * worst.late_s:.0f} ms beyond deadline and lag ({worst.phase}{inside})"
    claim = f"at most {LATE_SHARE:.0%} of the answers came more than {1000 * SLACK_S:.0f} ms late"
    return Check(claim, share(len(found), answered) <= LATE_SHARE, observed, timing_dependent=True)


def _recovered(kills: Sequence[Kill]) -> Check:
    times = [(kill.target, kill.recovery_s) for kill in kills]
    observed = ", ".join(f"{target} {'never' if s is None else f'{s:.1f} s'}" for target, s in times)
    return Check(
        "every killed process recovered", all(s is not None for _, s in times), observed or "no process was killed"
    )


def _goodput(phases: Sequence[PhaseFigures]) -> Check:
    """Compare goodput in the calm phases, without faults."""
    by_name = {phase.name: phase.goodput_per_s for phase in phases}
    once, twice = by_name.get("1x calm", 0.0), by_name.get("2x calm", 0.0)
    claim = f"goodput at 2x is at least {GOODPUT_KEPT:.0%} of that at 1x"
    ratio = twice / once if once else 0.0
    return Check(
        claim, ratio >= GOODPUT_KEPT, f"{ratio:.2f}: {twice:.1f} and {once:.1f} per second", timing_dependent=True
    )


def _reached(records: Sequence[Record]) -> Check:
    answers = Counter(
        report.stage for r in records if r.verdict for report in r.verdict.stages if report.outcome == "answered"
    )
    missing = sorted(set(STAGES.values()) - set(answers))
    observed = ", ".join(f"{stage} {answers[stage]}" for stage in STAGES.values())
    return Check("every stage answered", not missing, observed)


def _leftovers(observations: Observations) -> Check:
    remaining = {name: {kind: n for kind, n in work.items() if n} for name, work in observations.leftovers.items()}
    observed = ", ".join(f"{name}: {work or 'nothing'}" for name, work in remaining.items()) or "no replica responded"
    idle = len(remaining) == observations.replicas and not any(remaining.values())
    return Check("every ingress replica is idle a second after the load", idle, observed)


def _answered(records: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    return ((record, record.verdict.policy_version) for record in records if record.verdict is not None)


def _examples(found: Sequence[str]) -> str:
    return f"{len(found)}{_tail(found)}"


def _tail(found: Sequence[str]) -> str:
    return ": " + "; ".join(found[:_EXAMPLES]) + ("; ..." if len(found) > _EXAMPLES else "") if found else ""
