"""Replica counts: all engines of the cascade are scaled together, by the arrival rate at its front.

Required capacity per stage = arrival rate x share of items that reach the stage x current service time. Later stages
therefore scale as soon as a burst reaches the front, before their own queues grow. Load is measured in erlangs: busy
seconds of one replica per second. Uses the standard library only, because Ray's controller runs it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class ScalableEngine:
    """The limits within which an engine scales."""

    #: GPU share of a replica; above 1, whole GPUs.
    gpus: float
    #: Items that a replica processes at the same time.
    slots: int = 1
    min_replicas: int = 1
    max_replicas: int = 1
    #: All replicas stop while there are no requests.
    scale_to_zero: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand for an engine."""

    #: Erlangs.
    load: float
    #: Seconds of one replica that the queued items would take.
    backlog_s: float = 0.0
    #: Seconds since the last item that needed the engine.
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """The settings of the autoscaling policy."""

    #: Highest mean utilization of a replica.
    target_utilization: float = 0.7
    #: Spare capacity in standard deviations of a Poisson load: the square-root staffing rule of Halfin and Whitt
    #: (Operations Research 29, 1981).
    headroom_sigmas: float = 0.5
    #: Time in which a backlog should be processed.
    drain_s: float = 20.0
    #: Time for which fewer replicas must have sufficed before one is stopped.
    downscale_delay_s: float = 180.0
    #: Time without requests after which an engine scales to zero.
    scale_to_zero_after_s: float = 900.0


DEFAULT_SCALING = ScalingSettings()


def scaling_settings(settings: Mapping[str, object]) -> ScalingSettings:
    """Return the settings, with defaults for those that are missing. Raises ValueError naming the setting to mend."""
    for name, value in settings.items():
        if name not in ScalingSettings.__dataclass_fields__:
            known = ", ".join(ScalingSettings.__dataclass_fields__)
            raise ValueError(f"{name} is not a scaling setting; use one of {known}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; write a number of 0 or more")
    made = replace(DEFAULT_SCALING, **settings)  # type: ignore[arg-type]
    if not 0 < made.target_utilization <= 1 or made.drain_s <= 0:
        raise ValueError("target_utilization must be above 0 and at most 1, and drain_s above 0 seconds")
    return made


Peaks = Mapping[str, Sequence[tuple[float, int]]]


def desired_replicas(engine: ScalableEngine, demand: Demand, settings: ScalingSettings = DEFAULT_SCALING) -> int:
    """Return the replicas that the demand requires, within the engine's limits but regardless of free GPUs."""
    if engine.scale_to_zero and demand.idle_s >= settings.scale_to_zero_after_s and not demand.backlog_s:
        return 0
    load = demand.load + demand.backlog_s / settings.drain_s
    headroom = settings.headroom_sigmas * math.sqrt(demand.load / engine.slots)
    required = max(load / settings.target_utilization, load + headroom)
    return min(engine.max_replicas, max(engine.min_replicas, 1, math.ceil(required - _ROUNDING)))


def apply_downscale_delay(
    desired: Mapping[str, int], peaks: Peaks, now_s: float, settings: ScalingSettings = DEFAULT_SCALING
) -> tuple[dict[str, int], dict[str, list[tuple[float, int]]]]:
    """Return the highest recent replica count of each engine, so that none stops and restarts, and the new peaks.

    An engine that scales to zero has been idle long enough and is not delayed.

    Args:
        desired: replicas by engine.
        peaks: times and replica counts by engine, as the last call returned them.
        now_s: monotonic seconds.
        settings: for the delay.
    """
    highest: dict[str, int] = {}
    recent: dict[str, list[tuple[float, int]]] = {}
    for name, count in desired.items():
        # A peak that is no higher than a later one never matters again.
        higher = [
            (at_s, n) for at_s, n in peaks.get(name, ()) if n > count and now_s - at_s < settings.downscale_delay_s
        ]
        recent[name] = [*(higher if count else []), (now_s, count)]
        highest[name] = recent[name][0][1]
    return highest, recent


def place_replicas(
    desired: Mapping[str, int],
    engines: Mapping[str, ScalableEngine],
    gpus: Sequence[float],
    running: Mapping[str, int],
) -> dict[str, int]:
    """Return the replicas by engine that fit on the GPUs.

    The minimum of every engine comes first, then running replicas that are still desired, largest first, then further
    replicas one by one, each for the engine with the largest shortfall. Each time the replicas are packed anew, largest
    first (best fit decreasing), so none is rejected because of fragmentation.

    Args:
        desired: replicas by engine.
        engines: by name.
        gpus: free share of each GPU without these engines.
        running: replicas by engine.
    """
    placed = {name: min(desired[name], engine.min_replicas) for name, engine in engines.items()}
    by_size = sorted(engines, key=lambda name: -engines[name].gpus)
    for name in by_size:
        while placed[name] < min(desired[name], running.get(name, 0)) and _fits(placed, engines, gpus, name):
            placed[name] += 1
    short = {name for name in engines if placed[name] < desired[name]}
    while short:
        name = max(short, key=lambda each: (desired[each] / max(1, placed[each]), engines[each].gpus))
        if _fits(placed, engines, gpus, name):
            placed[name] += 1
        else:
            short.discard(name)
        if placed[name] >= desired[name]:
            short.discard(name)
    return placed


def _fits(placed: Mapping[str, int], engines: Mapping[str, ScalableEngine], gpus: Sequence[float], extra: str) -> bool:
    """Return whether one more replica fits beside those already placed."""
    counts = dict(placed)
    counts[extra] += 1
    return not engines[extra].gpus or pack_shares(
        [engines[name].gpus for name, count in counts.items() for _ in range(count)], gpus
    )


def pack_shares(shares: Sequence[float], gpus: Sequence[float]) -> bool:
    """Return whether the shares fit on the GPUs by best fit decreasing. A share above 1 takes whole GPUs."""
    free = sorted(gpus)
    for share in sorted(shares, reverse=True):
        if share > 1:
            whole = [at for at, room in enumerate(free) if room >= 1 - _ROUNDING][: math.ceil(share)]
            if len(whole) < math.ceil(share):
                return False
            for at in whole:
                free[at] = 0.0
        elif share > 0:
            at = next((at for at, room in enumerate(free) if room >= share - _ROUNDING), None)
            if at is None:
                return False
            free[at] -= share
        free.sort()
    return True
