"""When to stop and whom to ask next. Immutable and versioned; swapped whole, never edited in place."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from roadwork_serve.cascade.entries import entries_of, items_of, number
from roadwork_serve.cascade.evidence import Calibrator, logit, sigmoid
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import STAGES
from roadwork_serve.schema import ExitReason, MediaKind

MAX_VERSION = 128  # characters


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a policy: when it is asked, what its word is worth and when that word is enough.

    low, high: the exit band. A posterior below or above it ends the item; inside it the next stage is asked.
    when_words_likely: asked only if an earlier stage saw words worth reading with at least this probability,
        or said nothing about words; None asks always.
    needs_ms: not asked when less time is left.
    """

    stage: str
    low: float
    high: float
    calibrate: Calibrator = field(default_factory=Calibrator)
    when_words_likely: float | None = None
    needs_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an item has come.

    logodds: the posterior so far, the prior before any stage has spoken.
    position: index of the step to consider next.
    spoken: the step that spoke last, None while none has. To abstain is not to speak.
    failed: a stage that was wanted since then has failed.
    words_likely: probability that words worth reading are there, None while no stage has said so.
    """

    logodds: float
    position: int = 0
    spoken: Step | None = None
    failed: bool = False
    words_likely: float | None = None

    @property
    def posterior(self) -> float:
        """Probability of active road work, as far as is known."""
        return sigmoid(self.logodds)

    def after(self, step: Step, logit: float | None, words_likely: float | None = None) -> "Progress":
        """Where the item stands once the step has said `logit`, or abstained (None).

        Raises StageFailed when the logit is NaN.
        """
        known = self.words_likely if words_likely is None else words_likely
        if logit is None:
            return replace(self, position=self.position + 1, words_likely=known)
        return Progress(step.calibrate.update(self.logodds, logit), self.position + 1, step, words_likely=known)

    def past(self, failed: bool = False) -> "Progress":
        """Where the item stands once the step was skipped or has failed."""
        return replace(self, position=self.position + 1, failed=self.failed or failed)


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this step's stage."""

    step: Step


@dataclass(frozen=True, slots=True)
class Skip:
    """This step's stage has nothing to add; go on behind it."""

    step: Step
    why: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Stop here, with what is known so far."""

    reason: ExitReason


@dataclass(frozen=True, slots=True)
class Gear:
    """How to drive when it gets busy.

    wait_ms: the wait for some stage from which on it is used. keep: share of every exit band that is kept, 0 to 1.
    """

    wait_ms: float
    keep: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The steps for each kind of media, the belief to start from and the threshold of the label.

    prior: probability of active road work before any look.
    decide_at: a posterior from here up is labelled roadwork.
    gears: from the least wait to the longest, each keeps less than the one before; none by default.
    """

    version: str
    photo: tuple[Step, ...]
    clip: tuple[Step, ...]
    prior: float = 0.5
    decide_at: float = 0.5
    gears: tuple[Gear, ...] = ()

    def steps(self, kind: MediaKind) -> tuple[Step, ...]:
        """The stages in the order in which they are asked; some may be skipped, none comes twice."""
        return self.photo if kind == "photo" else self.clip

    def start(self) -> Progress:
        """An item that no stage has seen yet."""
        return Progress(logit(self.prior))

    def next_step(self, kind: MediaKind, progress: Progress, left_s: float) -> Ask | Skip | Leave:
        """What to do with an item that has come this far and has `left_s` seconds left.

        Only a stage that spoke can end an item by its band: one that abstains, fails or is skipped
        adds nothing to what was not enough before it. Every answer but Leave moves the position on
        by one, so an item leaves after at most as many moves as there are steps.
        """
        spoken = progress.spoken
        if spoken is not None and progress.posterior > spoken.high:
            return Leave("above_band")
        if spoken is not None and progress.posterior < spoken.low:
            return Leave("below_band")
        steps = self.steps(kind)
        if progress.position >= len(steps):
            return Leave("failed" if progress.failed else "last_stage")
        step = steps[progress.position]
        wanted, likely = step.when_words_likely, progress.words_likely
        if wanted is not None and likely is not None and likely < wanted:
            return Skip(step, f"words are unlikely here: {likely:.2f}, asked from {wanted:g}")
        if left_s <= 0 or left_s * 1000 < step.needs_ms:
            return Leave("deadline")
        return Ask(step)

    def narrowed(self, keep: float) -> "Policy":
        """The policy with a share of every exit band, around `decide_at`: items leave sooner. The version stays."""

        def narrow(step: Step) -> Step:
            low, high = (self.decide_at + keep * (edge - self.decide_at) for edge in (step.low, step.high))
            return replace(step, low=min(low, self.decide_at), high=max(high, self.decide_at))

        return replace(self, photo=tuple(map(narrow, self.photo)), clip=tuple(map(narrow, self.clip)))

    def named(self, version: str) -> "Policy":
        """The same under another version."""
        return replace(self, version=version)

    @classmethod
    def from_mapping(cls, mapping: object) -> "Policy":
        """A policy from what YAML or JSON holds. Raises ConfigError naming the entry to mend."""
        entries = entries_of(mapping, "policy", {"version", "photo", "clip"}, {"prior", "decide_at", "gears"})
        version = entries["version"]
        if not isinstance(version, str) or not version.strip():
            raise ConfigError(f'version: {version!r} is not a name; write a text in quotes, such as "mini-1"')
        if len(version) > MAX_VERSION:
            raise ConfigError(f"version: it has {len(version)} characters; write at most {MAX_VERSION}")
        prior = number(entries.get("prior", 0.5), "prior", 0, 1)
        if prior in (0, 1):
            raise ConfigError(f"prior: {prior:g} leaves nothing to ask; write a number between 0 and 1, such as 0.5")
        decide_at = number(entries.get("decide_at", 0.5), "decide_at", 0, 1)
        photo, clip = (_steps(entries[kind], kind, decide_at) for kind in ("photo", "clip"))
        return cls(version, photo, clip, prior, decide_at, _gears(entries.get("gears", [])))

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back into an equal policy."""
        mapping: dict[str, Any] = {
            "version": self.version,
            "prior": self.prior,
            "decide_at": self.decide_at,
            "photo": [_step_mapping(step) for step in self.photo],
            "clip": [_step_mapping(step) for step in self.clip],
        }
        if self.gears:
            mapping["gears"] = [asdict(gear) for gear in self.gears]
        return mapping


def _step_mapping(step: Step) -> dict[str, Any]:
    worth = step.calibrate
    mapping: dict[str, Any] = {
        "stage": step.stage,
        "exit": [step.low, step.high],
        "calibrate": {"scale": worth.scale, "carry": worth.carry, "bias": worth.bias},
        "needs_ms": step.needs_ms,
    }
    if step.when_words_likely is not None:
        mapping["when_words_likely"] = step.when_words_likely
    return mapping


def _steps(value: object, where: str, decide_at: float) -> tuple[Step, ...]:
    entries = items_of(value, where, "the stages in the order in which they are asked")
    if not entries:
        raise ConfigError(f"{where}: no stage is listed; list at least one of {', '.join(STAGES)}")
    steps = tuple(_step(entry, f"{where}[{index}]", decide_at) for index, entry in enumerate(entries))
    for index, step in enumerate(steps):
        if step.stage in [earlier.stage for earlier in steps[:index]]:
            raise ConfigError(f"{where}[{index}].stage: {step.stage} is listed twice; remove one of its entries")
    return steps


def _step(value: object, where: str, decide_at: float) -> Step:
    entries = entries_of(value, where, {"stage", "exit"}, {"calibrate", "when_words_likely", "needs_ms"})
    stage = entries["stage"]
    if not isinstance(stage, str) or stage not in STAGES:
        raise ConfigError(f"{where}.stage: {stage!r} is no stage; write one of {', '.join(STAGES)}")
    band = items_of(entries["exit"], f"{where}.exit", "[low, high]")
    if len(band) != 2:
        raise ConfigError(f"{where}.exit: {len(band)} numbers; write two, [low, high]")
    low, high = (number(bound, f"{where}.exit[{index}]", 0, 1) for index, bound in enumerate(band))
    if low > high:
        raise ConfigError(f"{where}.exit: low {low:g} is above high {high:g}; write [{high:g}, {low:g}]?")
    if not low <= decide_at <= high:
        raise ConfigError(
            f"{where}.exit: the band [{low:g}, {high:g}] leaves out decide_at, {decide_at:g}: items would leave "
            "above the band labelled none, or below it labelled roadwork; widen the band or move decide_at"
        )
    wanted = entries.get("when_words_likely")
    return Step(
        stage=stage,
        low=low,
        high=high,
        calibrate=_calibrator(entries.get("calibrate", {}), f"{where}.calibrate"),
        when_words_likely=None if wanted is None else number(wanted, f"{where}.when_words_likely", 0, 1),
        needs_ms=number(entries.get("needs_ms", 0.0), f"{where}.needs_ms", 0),
    )


def _gears(value: object) -> tuple[Gear, ...]:
    gears: list[Gear] = []
    for index, item in enumerate(items_of(value, "gears", "the gears, from the least wait to the longest")):
        where = f"gears[{index}]"
        entries = entries_of(item, where, {"wait_ms", "keep"}, set())
        gear = Gear(number(entries["wait_ms"], f"{where}.wait_ms", 1), number(entries["keep"], f"{where}.keep", 0, 1))
        if gears and gear.wait_ms <= gears[-1].wait_ms:
            raise ConfigError(f"{where}.wait_ms: write more than the {gears[-1].wait_ms:g} of the gear before it")
        if gear.keep >= (gears[-1].keep if gears else 1):
            raise ConfigError(f"{where}.keep: write less than the {gears[-1].keep if gears else 1:g} before it")
        gears.append(gear)
    return tuple(gears)


def _calibrator(value: object, where: str) -> Calibrator:
    entries = entries_of(value, where, set(), {"scale", "carry", "bias"})
    worth = {name: number(value, f"{where}.{name}") for name, value in entries.items()}
    try:
        return Calibrator(**worth)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
