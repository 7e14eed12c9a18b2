"""How many replicas each engine is worth: the cascade scaled as one, from what arrives at its front.

Every rate behind stage 1 is the rate at the front times the share of items that get that far, so all engines learn of
a change when the first item of it arrives, and none waits until its own queue has grown. Work is counted in erlangs:
seconds of one replica a second. Standard library alone: Ray's controller runs this.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class ScalableEngine:
    """What scales.

    gpus: the share of a card that a replica holds, 0 to 1. slots: items a replica works on at once. least, most:
    replicas. may_sleep: none at all are kept while nobody asks.
    """

    gpus: float
    slots: int = 1
    least: int = 1
    most: int = 1
    scale_to_zero: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of an engine.

    load: erlangs. backlog_s: seconds of one replica that what waits would take. quiet_s: since anybody asked.
    """

    load: float
    backlog_s: float = 0.0
    quiet_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """utilisation: of a replica at most, on average. surges: how many standard deviations of a Poisson load are kept
    free beside it, the staffing rule of Halfin and Whitt (Operations Research 29, 1981). drain_s: in which what waits
    is to be gone. hold_s: for so long the need must have been less before a replica goes. sleep_s: without a request.
    """

    utilisation: float = 0.7
    surges: float = 0.5
    drain_s: float = 20.0
    hold_s: float = 180.0
    sleep_s: float = 900.0


DEFAULT_SCALING = ScalingSettings()


def scaling_settings(settings: Mapping[str, object]) -> ScalingSettings:
    """ScalingSettings from plain data, what is not named as it ships. Raises ValueError naming the one to mend."""
    for name, value in settings.items():
        if name not in ScalingSettings.__dataclass_fields__:
            raise ValueError(
                f"{name} is no setting of scaling; there are {', '.join(ScalingSettings.__dataclass_fields__)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; write a number from 0 up")
    made = replace(DEFAULT_SCALING, **settings)  # type: ignore[arg-type]
    if not 0 < made.utilisation <= 1 or made.drain_s <= 0:
        raise ValueError("utilisation must be above 0 and at most 1, and drain_s above 0 seconds")
    return made


Peaks = Mapping[str, Sequence[tuple[float, int]]]


def desired_replicas(engine: ScalableEngine, demand: Demand, settings: ScalingSettings = DEFAULT_SCALING) -> int:
    """Replicas that an engine is worth at the moment, whatever there is room for; within its least and most."""
    if engine.scale_to_zero and demand.quiet_s >= settings.sleep_s and not demand.backlog_s:
        return 0
    load = demand.load + demand.backlog_s / settings.drain_s
    free = settings.surges * math.sqrt(demand.load / engine.slots)
    need = max(load / settings.utilisation, load + free)
    return min(engine.most, max(engine.least, 1, math.ceil(need - _ROUNDING)))


def apply_downscale_delay(
    wants: Mapping[str, int], peaks: Peaks, now_s: float, settings: ScalingSettings = DEFAULT_SCALING
) -> tuple[dict[str, int], dict[str, list[tuple[float, int]]]]:
    """The most that each engine was worth of late, so that none goes down and comes up again, and what to remember.

    peaks: by engine when it was worth how many, as the last call returned it. now_s: on a clock that rises. An engine
    that sleeps has waited long enough and is not held.
    """
    most: dict[str, int] = {}
    kept: dict[str, list[tuple[float, int]]] = {}
    for name, want in wants.items():
        # What is no more than a later one can never count again.
        left = [(at, n) for at, n in peaks.get(name, ()) if n > want and now_s - at < settings.hold_s] if want else []
        kept[name] = [*left, (now_s, want)]
        most[name] = kept[name][0][1]
    return most, kept


def place_replicas(
    wants: Mapping[str, int], engines: Mapping[str, ScalableEngine], cards: Sequence[float], running: Mapping[str, int]
) -> dict[str, int]:
    """Replicas that have a place: what was wanted, less what the cards have no room for.

    cards: the share of each that is free when none of these engines runs. Places go first to the least that every
    engine has, then to replicas that run and are wanted, the largest first, then one by one to whichever engine is
    shortest of what it wants. The same share of a card is a replica of any engine, so places are packed anew each time,
    the largest first (best fit decreasing): what can be packed is never refused because it lies badly.
    """
    given = {name: min(wants[name], engine.least) for name, engine in engines.items()}
    by_size = sorted(engines, key=lambda name: -engines[name].gpus)
    for name in by_size:
        while given[name] < min(wants[name], running.get(name, 0)) and _fits(given, engines, cards, name):
            given[name] += 1
    short = {name for name in engines if given[name] < wants[name]}
    while short:
        name = max(short, key=lambda each: (wants[each] / max(1, given[each]), engines[each].gpus))
        if _fits(given, engines, cards, name):
            given[name] += 1
        else:
            short.discard(name)
        if given[name] >= wants[name]:
            short.discard(name)
    return given


def _fits(given: Mapping[str, int], engines: Mapping[str, ScalableEngine], cards: Sequence[float], more: str) -> bool:
    """Whether all that is given and one replica more can lie on the cards."""
    counts = dict(given)
    counts[more] += 1
    return not engines[more].gpus or pack_shares(
        [engines[name].gpus for name, count in counts.items() for _ in range(count)], cards
    )


def pack_shares(shares: Sequence[float], cards: Sequence[float]) -> bool:
    """Whether the shares find room on the cards by best fit decreasing. A share above 1 takes whole cards."""
    room = sorted(cards)
    for share in sorted(shares, reverse=True):
        if share > 1:
            whole = [at for at, free in enumerate(room) if free >= 1 - _ROUNDING][: math.ceil(share)]
            if len(whole) < math.ceil(share):
                return False
            for at in whole:
                room[at] = 0.0
        elif share > 0:
            at = next((at for at, free in enumerate(room) if free >= share - _ROUNDING), None)
            if at is None:
                return False
            room[at] -= share
        room.sort()
    return True
