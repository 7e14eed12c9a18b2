"""What stages said, in the words of the wire."""

import time

from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.log_odds import sigmoid
from roadwork_serve.cascade.policy import Step
from roadwork_serve.schema import Outcome, StageReport


def report_of(step: Step, answer: StageAnswer, posterior: float | None = None) -> StageReport:
    """Of a stage that answered or abstained. posterior: the belief after it; None where it moved none."""
    opinion = answer.opinion
    return StageReport(
        stage=step.stage,
        outcome="abstained" if opinion.logit is None else "answered",
        model=opinion.model,
        head=step.head,
        miniature=opinion.miniature,
        probability=None if opinion.logit is None else sigmoid(opinion.logit),
        second_probability=None if opinion.second_logit is None else sigmoid(opinion.second_logit),
        posterior=posterior,
        queue_ms=answer.queue_ms,
        preprocess_ms=opinion.preprocess_ms,
        compute_ms=opinion.compute_ms,
        rpc_ms=answer.rpc_ms,
        batch_size=answer.batch_size,
        tokens=opinion.tokens,
        evidence=opinion.evidence,
    )


def failure_report(stage: str, outcome: Outcome, error: Exception, asked: float) -> StageReport:
    """Of a stage that was asked and gave nothing. asked: when, on the clock of `time.monotonic()`."""
    waited_ms = (time.monotonic() - asked) * 1000
    return StageReport(stage=stage, outcome=outcome, detail=f"{error} (after {waited_ms:.0f} ms)")
