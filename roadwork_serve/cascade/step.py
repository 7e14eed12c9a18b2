"""The parts of a policy: its steps and its degradation levels."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from roadwork_serve.cascade.log_odds import Calibrator
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.validation import ConfigModel, NonNegative, Probability, rule_error

MAX_HEAD = 1024  # characters


class Step(ConfigModel):
    """One stage of a policy: when it runs, how its prediction is calibrated and when the item may exit after it."""

    stage: StageName = Field(description="stage to query")
    exit: tuple[Probability, Probability] = Field(
        description="exit band [low, high]: the item exits if the posterior is outside it; otherwise the next step runs"
    )
    calibration: Calibrator = Field(
        default=Calibrator(), description="calibration of the stage's log-odds, and their weight beside the prior's"
    )
    min_text_probability: Probability | None = Field(
        default=None,
        description="the step is skipped if an earlier stage reported a lower probability of text worth reading; "
        "it always runs by default, or if no stage reported one",
    )
    min_time_left_ms: NonNegative = Field(
        default=0.0, description="the item exits before this step if less time is left until its deadline"
    )
    head: Annotated[str, Field(min_length=1, max_length=MAX_HEAD)] | None = Field(
        default=None,
        description="for stage backbone only: the head to use instead of the engine's; the name of its folder below "
        "`features.policy_heads` of the profile, by default `heads` in the state folder",
    )

    @property
    def low(self) -> float:
        """Lower edge of the exit band."""
        return self.exit[0]

    @property
    def high(self) -> float:
        """Upper edge of the exit band."""
        return self.exit[1]

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.exit
        if low > high:
            raise rule_error(f"low {low:g} is above high {high:g}; write [{high:g}, {low:g}]?", "exit")
        if self.head is not None and self.stage != "backbone":
            raise rule_error(f"stage {self.stage} has no heads; remove it (only backbone has)", "head")
        return self

    def applies(self, text_probability: float | None) -> bool:
        """Return whether the step should run on an item with this probability of text, None if it is unknown."""
        return (
            self.min_text_probability is None
            or text_probability is None
            or text_probability >= self.min_text_probability
        )

    def with_band(self, low: float, high: float) -> "Step":
        """Return the step with this exit band."""
        return self.model_copy(update={"exit": (low, high)})


class DegradationLevel(ConfigModel):
    """A level of load shedding: narrower exit bands from some queueing time on."""

    queue_wait_ms: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] = Field(
        description="the level applies while the longest queueing time of a stage is at least this"
    )
    band_factor: Probability = Field(description="factor on the width of every exit band; below 1, items exit sooner")
