"""Replays an evaluation row under another policy, from the predictions of every stage."""

from collections.abc import Collection
from dataclasses import dataclass

from roadwork_serve.cascade.policy import Policy, Progress, Skip, Walk
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of one row under a policy."""

    row: EvaluationRow
    progress: Progress
    #: Whether the row exited through a band.
    done: bool

    @property
    def exit_stage(self) -> str | None:
        """Last stage that did not abstain; None without one."""
        return None if self.progress.last_answered is None else self.progress.last_answered.stage


def replay(row: EvaluationRow, policy: Policy) -> Replay:
    """Run the policy on the recorded predictions of a row. Raises ConfigError when a stage it needs has none."""
    walk = Walk(policy, row.metadata.kind)
    for move in walk:
        if isinstance(move, Skip):
            continue
        if (record := row.record(move.step.stage)) is None:
            raise ConfigError(
                f"{move.step.stage} has no prediction for {row.metadata.name}; make the rows with `roadwork evaluate "
                "--all-stages --rows FILE`"
            )
        walk.record(move.step, record.logit, record.text_probability)
    return Replay(row, walk.progress, done=walk.reason in ("above_band", "below_band"))


def full_cascade_posterior(row: EvaluationRow, policy: Policy, without: Collection[str] = ()) -> Progress:
    """Return the progress after all stages of the policy, without early exits.

    without: stages to leave out. A stage without a prediction for the row is skipped.
    """
    progress = policy.start()
    for step in policy.steps(row.metadata.kind):
        record = None if step.stage in without else row.record(step.stage)
        if record is None or not step.applies(progress.text_probability):
            progress = progress.past()
        else:
            progress = progress.after(step, record.logit, record.text_probability)
    return progress
