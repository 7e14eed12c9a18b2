"""A judged row's way under another policy, from what every stage said of it."""

import math
from dataclasses import dataclass

from roadwork_serve.cascade.policy import ExitCascade, Policy, Progress, Skip
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow


@dataclass(frozen=True, slots=True)
class Replay:
    """One row under a policy: how far it came and the step it left at, None where no stage spoke."""

    row: EvaluationRow
    progress: Progress
    done: bool

    @property
    def left_at(self) -> str | None:
        return None if self.progress.spoken is None else self.progress.spoken.stage


def replay(row: EvaluationRow, policy: Policy) -> Replay:
    """The row's way through the policy, from what every stage said. `done` is False where no band ended it.

    Raises ConfigError when a stage is asked that did not speak on this row.
    """
    progress = policy.start()
    while True:
        move = policy.next_step(row.about.kind, progress, math.inf)
        if isinstance(move, ExitCascade):
            return Replay(row, progress, done=move.reason in ("above_band", "below_band"))
        if isinstance(move, Skip):
            progress = progress.past()
        elif look := row.look(move.step.stage):
            progress = progress.after(move.step, look.logit, look.text_probability)
        else:
            raise ConfigError(
                f"{move.step.stage} did not speak on {row.about.name}; make the rows with `roadwork evaluate "
                "--ask-everyone --rows FILE`"
            )


def full_cascade_posterior(row: EvaluationRow, policy: Policy, without: str | None = None) -> Progress:
    """What all stages of a policy together say of a row, whatever its bands: nobody leaves early.

    without: a stage that is not heard. A stage that did not speak on the row is passed over.
    """
    progress = policy.start()
    for step in policy.steps(row.about.kind):
        look = None if step.stage == without else row.look(step.stage)
        wanted, likely = step.min_text_probability, progress.text_probability
        skipped = wanted is not None and likely is not None and likely < wanted
        if look is None or skipped:
            progress = progress.past()
        else:
            progress = progress.after(step, look.logit, look.text_probability)
    return progress
