"""The steps of a policy, and its gears: as they are, and as YAML or JSON holds them."""

from dataclasses import dataclass, field
from typing import Any

from roadwork_serve.cascade.curve import curve_mapping, read_curve
from roadwork_serve.cascade.log_odds import Calibrator
from roadwork_serve.cascade.parsing import entries_of, items_of, number
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import STAGES

MAX_HEAD = 1024  # characters


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a policy: when it is asked, what its word is worth and when that word is enough.

    low, high: the exit band. A posterior below or above it ends the item; inside it the next stage is asked.
    min_text_probability: asked only if an earlier stage saw words worth reading with at least this probability,
        or said nothing about words; None asks always.
    needs_ms: not asked when less time is left.
    head: of stage 1, the folder of the head that it is to speak with; None for that of its engine.
    """

    stage: str
    low: float
    high: float
    calibrate: Calibrator = field(default_factory=Calibrator)
    min_text_probability: float | None = None
    min_time_left_ms: float = 0.0
    head: str | None = None


@dataclass(frozen=True, slots=True)
class DegradationLevel:
    """How to drive when it gets busy.

    wait_ms: the wait for some stage from which on it is used. keep: share of every exit band that is kept, 0 to 1.
    """

    queue_wait_ms: float
    keep: float


def step_mapping(step: Step) -> dict[str, Any]:
    """Plain data that `read_steps` reads back."""
    worth = step.calibrate
    mapping: dict[str, Any] = {
        "stage": step.stage,
        "exit": [step.low, step.high],
        "calibrate": {"scale": worth.scale, "prior_weight": worth.prior_weight, "bias": worth.bias},
        "min_time_left_ms": step.min_time_left_ms,
    }
    if worth.curve is not None:
        mapping["calibrate"]["curve"] = curve_mapping(worth.curve)
    if step.min_text_probability is not None:
        mapping["min_text_probability"] = step.min_text_probability
    if step.head is not None:
        mapping["head"] = step.head
    return mapping


def read_steps(value: object, where: str, decision_threshold: float) -> tuple[Step, ...]:
    """The steps of a kind of media. Raises ConfigError naming the entry to mend."""
    entries = items_of(value, where, "the stages in the order in which they are asked")
    if not entries:
        raise ConfigError(f"{where}: no stage is listed; list at least one of {', '.join(STAGES)}")
    steps = tuple(_step(entry, f"{where}[{index}]", decision_threshold) for index, entry in enumerate(entries))
    for index, step in enumerate(steps):
        if step.stage in [earlier.stage for earlier in steps[:index]]:
            raise ConfigError(f"{where}[{index}].stage: {step.stage} is listed twice; remove one of its entries")
    return steps


def _step(value: object, where: str, decision_threshold: float) -> Step:
    entries = entries_of(
        value, where, {"stage", "exit"}, {"calibrate", "min_text_probability", "min_time_left_ms", "head"}
    )
    stage = entries["stage"]
    if not isinstance(stage, str) or stage not in STAGES:
        raise ConfigError(f"{where}.stage: {stage!r} is no stage; write one of {', '.join(STAGES)}")
    band = items_of(entries["exit"], f"{where}.exit", "[low, high]")
    if len(band) != 2:
        raise ConfigError(f"{where}.exit: {len(band)} numbers; write two, [low, high]")
    low, high = (number(bound, f"{where}.exit[{index}]", 0, 1) for index, bound in enumerate(band))
    if low > high:
        raise ConfigError(f"{where}.exit: low {low:g} is above high {high:g}; write [{high:g}, {low:g}]?")
    if not low <= decision_threshold <= high:
        raise ConfigError(
            f"{where}.exit: the band [{low:g}, {high:g}] leaves out decide_at, {decision_threshold:g}: items would leave "
            "above the band labelled none, or below it labelled roadwork; widen the band or move decide_at"
        )
    wanted, head = entries.get("min_text_probability"), entries.get("head")
    if head is not None and (stage != "backbone" or not isinstance(head, str) or not 0 < len(head) <= MAX_HEAD):
        raise ConfigError(f"{where}.head: {head!r:.80} should be the folder of a head, and of stage backbone alone")
    return Step(
        stage=stage,
        low=low,
        high=high,
        calibrate=_calibrator(entries.get("calibrate", {}), f"{where}.calibrate"),
        min_text_probability=None if wanted is None else number(wanted, f"{where}.min_text_probability", 0, 1),
        min_time_left_ms=number(entries.get("min_time_left_ms", 0.0), f"{where}.needs_ms", 0),
        head=head,
    )


def read_gears(value: object) -> tuple[DegradationLevel, ...]:
    """The gears. Raises ConfigError naming the entry to mend."""
    degradation_levels: list[DegradationLevel] = []
    for index, item in enumerate(
        items_of(value, "degradation_levels", "the gears, from the least wait to the longest")
    ):
        where = f"gears[{index}]"
        entries = entries_of(item, where, {"queue_wait_ms", "keep"}, set())
        degradation_level = DegradationLevel(
            number(entries["queue_wait_ms"], f"{where}.wait_ms", 1), number(entries["keep"], f"{where}.keep", 0, 1)
        )
        if degradation_levels and degradation_level.queue_wait_ms <= degradation_levels[-1].queue_wait_ms:
            raise ConfigError(
                f"{where}.wait_ms: write more than the {degradation_levels[-1].queue_wait_ms:g} of the gear before it"
            )
        if degradation_level.keep >= (degradation_levels[-1].keep if degradation_levels else 1):
            raise ConfigError(
                f"{where}.keep: write less than the {degradation_levels[-1].keep if degradation_levels else 1:g} before it"
            )
        degradation_levels.append(degradation_level)
    return tuple(degradation_levels)


def _calibrator(value: object, where: str) -> Calibrator:
    entries = dict(entries_of(value, where, set(), {"scale", "prior_weight", "bias", "curve"}))
    curve = entries.pop("curve", None)
    worth = {name: number(value, f"{where}.{name}") for name, value in entries.items()}
    try:
        return Calibrator(**worth, curve=None if curve is None else read_curve(curve, f"{where}.curve"))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
