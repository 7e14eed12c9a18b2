"""When to stop and whom to ask next. Immutable and versioned; swapped whole, never edited in place."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from roadwork_serve.cascade.certificate import RiskCertificate
from roadwork_serve.cascade.log_odds import logit, sigmoid
from roadwork_serve.cascade.parsing import entries_of, number
from roadwork_serve.cascade.step import DegradationLevel, Step, read_gears, read_steps, step_mapping
from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import ExitReason, MediaKind

MAX_VERSION = 128  # characters


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an item has come.

    logodds: the posterior so far, the prior before any stage has spoken.
    position: index of the step to consider next.
    spoken: the step that spoke last, None while none has. To abstain is not to speak.
    failed: a stage that was wanted since then has failed.
    text_probability: probability that words worth reading are there, None while no stage has said so.
    """

    logodds: float
    position: int = 0
    spoken: Step | None = None
    failed: bool = False
    text_probability: float | None = None

    @property
    def posterior(self) -> float:
        """Probability of active road work, as far as is known."""
        return sigmoid(self.logodds)

    def after(self, step: Step, logit: float | None, text_probability: float | None = None) -> "Progress":
        """Where the item stands once the step has said `logit`, or abstained (None).

        Raises StageFailed when the logit is NaN.
        """
        known = self.text_probability if text_probability is None else text_probability
        if logit is None:
            return replace(self, position=self.position + 1, text_probability=known)
        return Progress(step.calibrate.update(self.logodds, logit), self.position + 1, step, text_probability=known)

    def past(self, failed: bool = False) -> "Progress":
        """Where the item stands once the step was skipped or has failed."""
        return replace(self, position=self.position + 1, failed=self.failed or failed)


@dataclass(frozen=True, slots=True)
class Query:
    """Ask this step's stage."""

    step: Step


@dataclass(frozen=True, slots=True)
class Skip:
    """This step's stage has nothing to add; go on behind it."""

    step: Step
    why: str


@dataclass(frozen=True, slots=True)
class ExitCascade:
    """Stop here, with what is known so far."""

    reason: ExitReason


@dataclass(frozen=True, slots=True)
class Policy:
    """The steps for each kind of media, the belief to start from and the threshold of the label.

    prior: probability of active road work before any look.
    decide_at: a posterior from here up is labelled roadwork.
    gears: from the least wait to the longest, each keeps less than the one before; none by default.
    certificate: what is promised of the exit bands, as they are without gears; None where nothing is.
    """

    version: str
    photo: tuple[Step, ...]
    clip: tuple[Step, ...]
    prior: float = 0.5
    decision_threshold: float = 0.5
    degradation_levels: tuple[DegradationLevel, ...] = ()
    certificate: RiskCertificate | None = None

    def steps(self, kind: MediaKind) -> tuple[Step, ...]:
        """The stages in the order in which they are asked; some may be skipped, none comes twice."""
        return self.photo if kind == "photo" else self.clip

    def start(self) -> Progress:
        """An item that no stage has seen yet."""
        return Progress(logit(self.prior))

    def next_step(self, kind: MediaKind, progress: Progress, left_s: float) -> Query | Skip | ExitCascade:
        """What to do with an item that has come this far and has `left_s` seconds left.

        Only a stage that spoke can end an item by its band: one that abstains, fails or is skipped
        adds nothing to what was not enough before it. Every answer but Leave moves the position on
        by one, so an item leaves after at most as many moves as there are steps.
        """
        spoken = progress.spoken
        if spoken is not None and progress.posterior > spoken.high:
            return ExitCascade("above_band")
        if spoken is not None and progress.posterior < spoken.low:
            return ExitCascade("below_band")
        steps = self.steps(kind)
        if progress.position >= len(steps):
            return ExitCascade("failed" if progress.failed else "last_stage")
        step = steps[progress.position]
        wanted, likely = step.min_text_probability, progress.text_probability
        if wanted is not None and likely is not None and likely < wanted:
            return Skip(step, f"words are unlikely here: {likely:.2f}, asked from {wanted:g}")
        if left_s <= 0 or left_s * 1000 < step.min_time_left_ms:
            return ExitCascade("deadline")
        return Query(step)

    def narrowed(self, keep: float) -> "Policy":
        """The policy with a share of every exit band, around `decide_at`: items leave sooner. The version stays."""

        def narrow(step: Step) -> Step:
            low, high = (
                self.decision_threshold + keep * (edge - self.decision_threshold) for edge in (step.low, step.high)
            )
            return replace(step, low=min(low, self.decision_threshold), high=max(high, self.decision_threshold))

        return replace(self, photo=tuple(map(narrow, self.photo)), clip=tuple(map(narrow, self.clip)))

    def named(self, version: str) -> "Policy":
        """The same under another version."""
        return replace(self, version=version)

    @classmethod
    def from_mapping(cls, mapping: object) -> "Policy":
        """A policy from what YAML or JSON holds. Raises ConfigError naming the entry to mend."""
        entries = entries_of(
            mapping,
            "policy",
            {"version", "photo", "clip"},
            {"prior", "decision_threshold", "degradation_levels", "certificate"},
        )
        version = entries["version"]
        if not isinstance(version, str) or not version.strip():
            raise ConfigError(f'version: {version!r} is not a name; write a text in quotes, such as "mini-1"')
        if len(version) > MAX_VERSION:
            raise ConfigError(f"version: it has {len(version)} characters; write at most {MAX_VERSION}")
        prior = number(entries.get("prior", 0.5), "prior", 0, 1)
        if prior in (0, 1):
            raise ConfigError(f"prior: {prior:g} leaves nothing to ask; write a number between 0 and 1, such as 0.5")
        decision_threshold = number(entries.get("decision_threshold", 0.5), "decision_threshold", 0, 1)
        photo, clip = (read_steps(entries[kind], kind, decision_threshold) for kind in ("photo", "clip"))
        degradation_levels, promised = read_gears(entries.get("degradation_levels", [])), entries.get("certificate")
        certificate = None if promised is None else RiskCertificate.from_mapping(promised)
        return cls(version, photo, clip, prior, decision_threshold, degradation_levels, certificate)

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back into an equal policy."""
        mapping: dict[str, Any] = {
            "version": self.version,
            "prior": self.prior,
            "decision_threshold": self.decision_threshold,
            "photo": [step_mapping(step) for step in self.photo],
            "clip": [step_mapping(step) for step in self.clip],
        }
        if self.degradation_levels:
            mapping["degradation_levels"] = [asdict(degradation_level) for degradation_level in self.degradation_levels]
        if self.certificate is not None:
            mapping["certificate"] = self.certificate.to_mapping()
        return mapping
