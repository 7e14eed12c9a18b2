"""What must hold after a storm: each a sentence, whether it held, and what was seen."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.chaos.figures import Kill, PhaseFigures, outcomes, share
from benchmarks.chaos.outcomes import Record
from benchmarks.chaos.plan import STAGES
from benchmarks.chaos.versions import Reign, breach, permitted

SLACK_S = 0.05  # an answer may come this much after its deadline
LATE_SHARE = 0.01
GOODPUT_KEPT = 0.8
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold. timed: what else the machine has to do has a say in it."""

    claim: str
    held: bool
    seen: str
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """Everything a storm found out.

    changes, wanted_changes: policies put or rolled back, and how many there were to be.
    leftovers: what each ingress replica still held, a second after the load's end at most; empty: none answered.
    replicas: of the ingress.
    """

    sent: int
    records: Sequence[Record]
    phases: Sequence[PhaseFigures]
    kills: Sequence[Kill]
    reigns: Sequence[Reign]
    changes: int
    wanted_changes: int
    leftovers: Mapping[str, Mapping[str, int]]
    replicas: int


def checks(told: Told) -> list[Check]:
    """All of them."""
    return [
        _balance(told),
        _nothing("every request got an answer", told.records, "unanswered"),
        _nothing("every answer was the right kind of answer", told.records, "wrong"),
        _once(told.records),
        _versions(told),
        _contents(told),
        _changes(told),
        _late(told.records),
        _recovered(told.kills),
        _goodput(told.phases),
        _reached(told.records),
        _leftovers(told),
    ]


def late(records: Sequence[Record]) -> list[Record]:
    """Answers that came later than their deadline and the slack, beyond the load generator's own lag; worst first."""
    found = [r for r in records if r.outcome == "answered" and not r.in_time(SLACK_S)]
    return sorted(found, key=lambda record: record.late_s, reverse=True)


def _balance(told: Told) -> Check:
    counted = outcomes(told.records)
    answered, refused, errors = counted["answered"], counted["refused"] + counted["cut off"], counted["client error"]
    return Check(
        "sent = answered + refused + client errors",
        told.sent == answered + refused + errors,
        f"{told.sent} = {answered} + {refused} (of them {counted['cut off']} cut off) + {errors}",
    )


def _nothing(claim: str, records: Sequence[Record], outcome: str) -> Check:
    found = [record for record in records if record.outcome == outcome]
    return Check(claim, not found, _examples([f"{r.request_id} ({r.kind}, {r.phase}): {r.told}" for r in found]))


def _once(records: Sequence[Record]) -> Check:
    """Check that every request has one reply. A reply with another request's id has the outcome `wrong`."""
    requests = Counter(record.request_id for record in records)
    verdicts = Counter(record.verdict.request_id for record in records if record.verdict is not None)
    twice = [each for each, count in (*requests.items(), *verdicts.items()) if count > 1]
    return Check("nothing was answered twice", not twice, f"{len(verdicts)} verdicts" + _tail(twice))


def _versions(told: Told) -> Check:
    breaches: list[str] = []
    exact = 0
    for record, version in _answered(told.records):
        allowed = permitted(told.reigns, record.sent_s, record.ended_s)
        exact += len(allowed) == 1
        if version not in allowed:
            breaches.append(f"{record.request_id} has {version}, not one of {sorted(allowed)}")
    seen = len({version for _, version in _answered(told.records)})
    claim = "every verdict has the version of a policy that was in force"
    return Check(claim, not breaches, f"{seen} versions, {exact} verdicts could have but one" + _tail(breaches))


def _contents(told: Told) -> Check:
    policies = {reign.version: reign.policy for reign in told.reigns}
    breaches: list[str] = []
    for record, version in _answered(told.records):
        policy = policies.get(version)
        if policy and record.verdict and (found := breach(record.verdict, policy)):
            breaches.append(f"{record.request_id} of {version}: {found}")
    claim = "every verdict is of one policy: its stages, its bands"
    return Check(claim, not breaches, _examples(breaches))


def _changes(told: Told) -> Check:
    seen = f"{told.changes} of {told.wanted_changes}"
    return Check("the policy was swapped and rolled back as planned", told.changes == told.wanted_changes, seen)


def _late(records: Sequence[Record]) -> Check:
    found, answered = late(records), outcomes(records)["answered"]
    seen = f"{len(found)} of {answered}"
    if found:
        worst = found[0]
        inside = (
            f", {worst.verdict.elapsed_ms:.0f} ms of {1000 * worst.took_s:.0f} in the server" if worst.verdict else ""
        )
        seen += f"; worst {1000 * worst.late_s:.0f} ms beyond deadline and lag ({worst.phase}{inside})"
    claim = f"at most {LATE_SHARE:.0%} of the answers came more than {1000 * SLACK_S:.0f} ms late"
    return Check(claim, share(len(found), answered) <= LATE_SHARE, seen, timed=True)


def _recovered(kills: Sequence[Kill]) -> Check:
    times = [(kill.target, kill.recovery_s) for kill in kills]
    seen = ", ".join(f"{target} {'never' if s is None else f'{s:.1f} s'}" for target, s in times)
    return Check(
        "everything that was killed came back", all(s is not None for _, s in times), seen or "nothing was killed"
    )


def _goodput(phases: Sequence[PhaseFigures]) -> Check:
    """Of calm phases alone: what faults cost is told beside it."""
    by_name = {phase.name: phase.goodput_per_s for phase in phases}
    once, twice = by_name.get("1x calm", 0.0), by_name.get("2x calm", 0.0)
    claim = f"goodput at 2x is at least {GOODPUT_KEPT:.0%} of that at 1x"
    ratio = twice / once if once else 0.0
    return Check(claim, ratio >= GOODPUT_KEPT, f"{ratio:.2f}: {twice:.1f} and {once:.1f} a second", timed=True)


def _reached(records: Sequence[Record]) -> Check:
    spoke = Counter(
        report.stage for r in records if r.verdict for report in r.verdict.stages if report.outcome == "answered"
    )
    missing = sorted(set(STAGES.values()) - set(spoke))
    seen = ", ".join(f"{stage} {spoke[stage]}" for stage in STAGES.values())
    return Check("every stage spoke", not missing, seen)


def _leftovers(told: Told) -> Check:
    left = {name: {what: n for what, n in held.items() if n} for name, held in told.leftovers.items()}
    seen = ", ".join(f"{name}: {held or 'nothing'}" for name, held in left.items()) or "no replica told"
    held = len(left) == told.replicas and not any(left.values())
    return Check("a second after the load every ingress replica holds nothing", held, seen)


def _answered(records: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    return ((record, record.verdict.policy_version) for record in records if record.verdict is not None)


def _examples(found: Sequence[str]) -> str:
    return f"{len(found)}{_tail(found)}"


def _tail(found: Sequence[str]) -> str:
    return ": " + "; ".join(found[:_EXAMPLES]) + ("; ..." if len(found) > _EXAMPLES else "") if found else ""
