"""Conversion of stage answers and failures to the stage reports of a verdict."""

import time

from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.log_odds import sigmoid
from roadwork_serve.cascade.policy import Skip, Step
from roadwork_serve.schema import Outcome, StageReport


def report_of(step: Step, answer: StageAnswer, posterior: float | None = None) -> StageReport:
    """Return the report of a stage that answered or abstained.

    `posterior` is the cascade's after this stage; None if the answer was not used for it.
    """
    prediction = answer.prediction
    return StageReport(
        stage=step.stage,
        outcome="abstained" if prediction.logit is None else "answered",
        model=prediction.model,
        head=step.head,
        miniature=prediction.miniature,
        probability=None if prediction.logit is None else sigmoid(prediction.logit),
        second_probability=None if prediction.second_logit is None else sigmoid(prediction.second_logit),
        posterior=posterior,
        detail=prediction.abstention,
        queue_ms=answer.queue_ms,
        preprocess_ms=prediction.preprocess_ms,
        compute_ms=prediction.compute_ms,
        rpc_ms=answer.rpc_ms,
        batch_size=answer.batch_size,
        tokens=prediction.tokens,
        evidence=prediction.evidence,
    )


def skip_report(skip: Skip) -> StageReport:
    """Return the report of a stage that the policy skipped."""
    return StageReport(stage=skip.step.stage, outcome="skipped", detail=skip.reason)


def failure_report(stage: str, outcome: Outcome, error: Exception, started_s: float) -> StageReport:
    """Return the report of a stage without an answer. `started_s` is on the clock of `time.monotonic()`."""
    waited_ms = (time.monotonic() - started_s) * 1000
    return StageReport(stage=stage, outcome=outcome, detail=f"{error} (after {waited_ms:.0f} ms)")
