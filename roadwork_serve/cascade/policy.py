"""The policy of the cascade: which stage runs next, and when an item exits. Immutable, and replaced as a whole."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from roadwork_serve.cascade.certificate import RiskCertificate
from roadwork_serve.cascade.log_odds import logit, sigmoid
from roadwork_serve.cascade.step import DegradationLevel, Step
from roadwork_serve.profiles.stage_kinds import stage_names
from roadwork_serve.schema import ExitReason, MediaKind
from roadwork_serve.validation import ConfigModel, Probability, rule_error

MAX_VERSION = 128  # characters


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of an item on its way through the stages."""

    #: Posterior log-odds so far; the prior's before any stage has answered.
    logodds: float
    #: Index of the step to consider next.
    position: int = 0
    #: The last step whose stage returned a prediction, None so far. An abstention is not one.
    last_answered: Step | None = None
    #: A stage has failed since the last prediction.
    failed: bool = False
    #: Probability that text worth reading is present; None as long as no stage has reported one.
    text_probability: float | None = None

    @property
    def posterior(self) -> float:
        """Probability of active road work, given the predictions so far."""
        return sigmoid(self.logodds)

    def after(self, step: Step, logit: float | None, text_probability: float | None = None) -> "Progress":
        """Return the state after the step's stage returned `logit`, or abstained (None).

        Raises StageFailed if the logit is NaN.
        """
        known = self.text_probability if text_probability is None else text_probability
        if logit is None:
            return replace(self, position=self.position + 1, text_probability=known)
        return Progress(step.calibration.update(self.logodds, logit), self.position + 1, step, text_probability=known)

    def past(self, failed: bool = False) -> "Progress":
        """Return the state after the step was skipped or has failed."""
        return replace(self, position=self.position + 1, failed=self.failed or failed)


@dataclass(frozen=True, slots=True)
class Query:
    """The stage of this step runs next."""

    step: Step


@dataclass(frozen=True, slots=True)
class Skip:
    """The stage of this step has nothing to add; the step behind it is considered next."""

    step: Step
    reason: str


@dataclass(frozen=True, slots=True)
class ExitCascade:
    """The item exits with the posterior so far."""

    reason: ExitReason


def _check_version(version: str) -> str:
    if not version.strip():
        raise rule_error(f'{version!r} is not a name; write a text in quotes, such as "mini-1"')
    return version


def _check_prior(prior: float) -> float:
    if prior in (0, 1):
        raise rule_error(f"{prior:g} leaves nothing to decide; write a number between 0 and 1, such as 0.5")
    return prior


def _check_stages(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if not steps:
        raise rule_error(f"no stage is listed; list at least one of {', '.join(stage_names())}")
    names = [step.stage for step in steps]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise rule_error(f"{name} is listed twice; remove one of its entries", f"[{index}].stage")
    return steps


def _check_levels(levels: tuple[DegradationLevel, ...]) -> tuple[DegradationLevel, ...]:
    wait_ms, factor = 0.0, 1.0
    for index, level in enumerate(levels):
        if level.queue_wait_ms <= wait_ms:
            raise rule_error(f"write more than the {wait_ms:g} of the level before it", f"[{index}].queue_wait_ms")
        if level.band_factor >= factor:
            before = "of the level before it" if index else "of no degradation"
            raise rule_error(f"write less than the {factor:g} {before}", f"[{index}].band_factor")
        wait_ms, factor = level.queue_wait_ms, level.band_factor
    return levels


Steps = Annotated[tuple[Step, ...], AfterValidator(_check_stages)]


class Policy(ConfigModel):
    """The steps for each media type, the prior, and the threshold of the label."""

    version: Annotated[str, Field(min_length=1, max_length=MAX_VERSION), AfterValidator(_check_version)] = Field(
        description="name of this policy; verdicts record it, so different policies need different ones"
    )
    photo: Steps = Field(description="steps for photos, in order; each stage at most once")
    clip: Steps = Field(description="steps for clips, in order; each stage at most once")
    prior: Annotated[Probability, AfterValidator(_check_prior)] = Field(
        default=0.5, description="probability of active road work before any stage has run"
    )
    decision_threshold: Probability = Field(
        default=0.5, description="a posterior of at least this is labelled roadwork; every exit band contains it"
    )
    degradation_levels: Annotated[tuple[DegradationLevel, ...], AfterValidator(_check_levels)] = Field(
        default=(),
        description="load shedding: levels of increasing queueing time and decreasing band width; none by default",
    )
    certificate: RiskCertificate | None = Field(
        default=None, description="proven bound on early-exit errors, for the exit bands at full width"
    )

    @model_validator(mode="after")
    def _check_bands(self) -> Self:
        threshold = self.decision_threshold
        for kind, steps in (("photo", self.photo), ("clip", self.clip)):
            for index, step in enumerate(steps):
                if not step.low <= threshold <= step.high:
                    raise rule_error(
                        f"the band [{step.low:g}, {step.high:g}] does not contain decision_threshold, {threshold:g}: "
                        "items would exit above the band labelled none, or below it labelled roadwork; widen the band "
                        "or change decision_threshold",
                        f"{kind}[{index}].exit",
                    )
        return self

    def steps(self, kind: MediaKind) -> tuple[Step, ...]:
        """Return the steps in their order. Some may be skipped; no stage comes twice."""
        return self.photo if kind == "photo" else self.clip

    def with_steps(self, kind: MediaKind, steps: Sequence[Step]) -> "Policy":
        """Return the policy with other steps for a media type. They are not validated."""
        return self.model_copy(update={kind: tuple(steps)})

    def start(self) -> Progress:
        """Return the state of an item before any stage has run."""
        return Progress(logit(self.prior))

    def next_step(self, kind: MediaKind, progress: Progress, left_s: float) -> Query | Skip | ExitCascade:
        """Return the next move for an item with this progress and `left_s` seconds until its deadline.

        Only a stage that returned a prediction can end an item by its band: one that abstains, fails or is skipped
        adds nothing to what was not enough before it. Every move but ExitCascade advances the position by one, so an
        item exits after at most as many moves as there are steps.
        """
        answered = progress.last_answered
        if answered is not None:
            low, high = answered.exit
            if (posterior := progress.posterior) > high:
                return ExitCascade("above_band")
            if posterior < low:
                return ExitCascade("below_band")
        steps = self.steps(kind)
        if progress.position >= len(steps):
            return ExitCascade("failed" if progress.failed else "last_stage")
        step = steps[progress.position]
        if not step.applies(progress.text_probability):
            return Skip(
                step, f"text is unlikely: {progress.text_probability:.2f} is below {step.min_text_probability:g}"
            )
        if left_s <= 0 or left_s * 1000 < step.min_time_left_ms:
            return ExitCascade("deadline")
        return Query(step)

    def narrow_bands(self, factor: float) -> "Policy":
        """Return the policy with every exit band narrowed towards the decision threshold. The version stays."""
        threshold = self.decision_threshold

        def narrow(step: Step) -> Step:
            low, high = (threshold + factor * (edge - threshold) for edge in step.exit)
            return step.with_band(min(low, threshold), max(high, threshold))

        return self.model_copy(update={"photo": tuple(map(narrow, self.photo)), "clip": tuple(map(narrow, self.clip))})

    def named(self, version: str) -> "Policy":
        """Return the policy under another version."""
        return self.model_copy(update={"version": version})


class Walk:
    """The way of one item through a policy: iterate over its moves, and `record` the answer to each Query.

    A Query without an answer counts as a failed stage.
    """

    def __init__(self, policy: Policy, kind: MediaKind, left_s: Callable[[], float] = lambda: math.inf) -> None:
        self._policy = policy
        self._kind: MediaKind = kind
        self._left_s = left_s
        #: The state of the item.
        self.progress = policy.start()
        #: Why the item exited; None until the iteration has ended.
        self.reason: ExitReason | None = None

    def __iter__(self) -> Iterator[Query | Skip]:
        """Yield moves until the item exits."""
        while True:
            move = self._policy.next_step(self._kind, self.progress, self._left_s())
            if isinstance(move, ExitCascade):
                self.reason = move.reason
                return
            position = self.progress.position
            yield move
            if self.progress.position == position:
                self.progress = self.progress.past(failed=isinstance(move, Query))

    def record(self, step: Step, logit: float | None, text_probability: float | None = None) -> None:
        """Record the answer to a Query; None is an abstention. Raises StageFailed if the logit is NaN."""
        self.progress = self.progress.after(step, logit, text_probability)
