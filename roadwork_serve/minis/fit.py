"""Fit a policy to judged rows: what each stage's word is worth, and when it is enough.

The rows are those of `roadwork evaluate --ask-everyone --rows`, where every stage spoke on every item,
from seeds that neither training nor evaluation uses. Step by step, in the order of the policy: the
stage's calibrator is fitted on the items that reach it under the bands chosen so far, then its exit
band is made as narrow as the error allowed among the items that leave there permits. The error is
that of the sample, with no confidence bound.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.evidence import sigmoid
from roadwork_serve.cascade.load import load_policy
from roadwork_serve.cascade.policy import Policy, Progress
from roadwork_serve.cascade.steps import Step
from roadwork_serve.errors import ConfigError
from roadwork_serve.learn.policy_file import policy_yaml
from roadwork_serve.learn.replay import replay
from roadwork_serve.learn.rows import Row, read_rows
from roadwork_serve.learn.stacker import fit_calibrator
from roadwork_serve.schema import MediaKind

GRID = 1e-4  # bands are written with four digits
MIN_LEAVING = 20  # fewer than this say nothing of an error rate, and nobody leaves on that side

Floats = NDArray[np.float64]


def fit_policy(rows: Sequence[Row], base: Policy, max_exit_error: float, version: str, pass_on: float = 0.25) -> Policy:
    """The base policy with calibrators and exit bands fitted to the rows.

    max_exit_error: share of wrong labels allowed, in this sample, among the items that leave a stage
        on either side of its band. The last stage ends everything.
    pass_on: share of the items at the last stage but one that may go on to the last, the least sure of them. What
        reaches it is doubtful, so it can seldom promise an error that small, and the last stage is the dearest.
    """
    fitted = replace(base, version=version)
    for kind in ("photo", "clip"):
        mine = [row for row in rows if row.about.kind == kind and row.about.scored]
        if mine:
            fitted = _fit_kind(fitted, kind, mine, max_exit_error, pass_on)
    return fitted


def _fit_kind(policy: Policy, kind: MediaKind, rows: Sequence[Row], max_exit_error: float, pass_on: float) -> Policy:
    steps = policy.steps(kind)
    done: tuple[Step, ...] = ()
    for index, step in enumerate(steps):
        so_far = _with_steps(policy, kind, done)
        reached = [way for way in (replay(row, so_far) for row in rows) if not way.done]
        entered = [way for way in reached if _enters(step, way.progress)]
        prior = np.array([way.progress.logodds for way in entered])
        said = np.array([_logit(way.row, step.stage) for way in entered])
        truth = np.array([way.row.about.label for way in entered], dtype=bool)
        spoke = ~np.isnan(said)
        if spoke.any():
            step = replace(step, calibrate=fit_calibrator(prior[spoke], said[spoke], truth[spoke]))
        if index == len(steps) - 1:
            low = high = policy.decide_at
        else:
            after = [step.calibrate.update(p, s) for p, s in zip(prior[spoke], said[spoke], strict=True)]
            posterior = np.array([sigmoid(logodds) for logodds in after])
            low, high = exit_band(posterior, truth[spoke], policy.decide_at, max_exit_error)
            if index == len(steps) - 2 and step.when_words_likely is None:
                low, high = narrowed(posterior, policy.decide_at, low, high, pass_on)
        done += (replace(step, low=low, high=high),)
    return _with_steps(policy, kind, done)


def _with_steps(policy: Policy, kind: MediaKind, steps: tuple[Step, ...]) -> Policy:
    return replace(policy, photo=steps) if kind == "photo" else replace(policy, clip=steps)


def _enters(step: Step, progress: Progress) -> bool:
    wanted, likely = step.when_words_likely, progress.words_likely
    return wanted is None or likely is None or likely >= wanted


def _logit(row: Row, stage: str) -> float:
    """NaN where the stage abstained."""
    look = row.look(stage)
    if look is None:
        raise ConfigError(f"{stage} did not speak on {row.about.name}; make the rows with --ask-everyone")
    return math.nan if look.logit is None else look.logit


def exit_band(posterior: Floats, truth: NDArray[np.bool_], decide_at: float, max_error: float) -> tuple[float, float]:
    """The narrowest band around `decide_at` with at most `max_error` wrong among those below it, and among those above.

    Rounded outward to four digits; 0 or 1 where too few could leave on that side.
    """
    low = _reach(posterior, truth, decide_at, max_error)
    high = 1 - _reach(1 - posterior, ~truth, 1 - decide_at, max_error)
    return round(low, 4), round(high, 4)


def narrowed(posterior: Floats, decide_at: float, low: float, high: float, pass_on: float) -> tuple[float, float]:
    """The band, no wider than lets that share of the items on, the nearest to `decide_at`; to four digits."""
    reach = float(np.quantile(np.abs(posterior - decide_at), pass_on)) if len(posterior) else 0.0
    return round(max(low, decide_at - reach), 4), round(min(high, decide_at + reach), 4)


def _reach(p: Floats, wrong: NDArray[np.bool_], limit: float, max_error: float) -> float:
    """The smallest threshold on the grid that lets out, from 0 up, as many as the error allows; 0 for none."""
    thresholds = np.arange(1, math.floor(limit / GRID + 1e-9) + 1) * GRID
    order = np.argsort(p, kind="stable")
    errors = np.concatenate(([0], np.cumsum(wrong[order])))
    out = np.searchsorted(p[order], thresholds - 1e-9)  # a posterior on the grid itself is not below it
    allowed = (out >= MIN_LEAVING) & (errors[out] <= max_error * out)
    if not allowed.any():
        return 0.0
    most = out[np.flatnonzero(allowed)[-1]]
    return float(thresholds[np.flatnonzero(out == most)[0]])


def told(rows: Sequence[Row], policy: Policy) -> str:
    """How the rows fare under the policy, a line for each kind."""
    lines: list[str] = []
    for kind in ("photo", "clip"):
        ways = [replay(row, policy) for row in rows if row.about.kind == kind and row.about.scored]
        if ways:
            right = sum((way.progress.posterior >= policy.decide_at) == way.row.about.label for way in ways)
            left = Counter(way.left_at for way in ways)
            mix = ", ".join(f"{step.stage} {left[step.stage] / len(ways):.1%}" for step in policy.steps(kind))
            lines.append(f"{len(ways)} {kind}s: {right / len(ways):.4f} right; left at {mix}.")
    return "\n".join(lines)


def main(
    rows_file: Path, base: str, out: Path, version: str, max_exit_error: float, pass_on: float, command: str
) -> None:
    """Read rows, fit, write the policy with a comment on how it was made, and print that comment."""
    rows = read_rows(rows_file)
    policy = fit_policy(rows, load_policy(base), max_exit_error, version, pass_on)
    seeds = [row.about.seed for row in rows if row.about.seed is not None]
    comment = (
        f"Fitted on {datetime.now(UTC):%Y-%m-%d} by `{command}`\n"
        f"to {len(rows)} items" + (f" with the seeds {min(seeds)} to {max(seeds)}" if seeds else "") + ".\n"
        "Calibration: logistic regression on the items that reach a stage. Bands: as narrow as leaves at most\n"
        f"{max_exit_error:.2%} wrong among those that leave a stage on either side, in this sample. That is no bound:\n"
        "certified thresholds need held-out rows and a confidence level. Of what the last stage but one is asked, it\n"
        f"passes on {pass_on:.0%} at most. On the sample itself:\n" + told(rows, policy)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(policy_yaml(policy, comment), encoding="utf-8")
    print(comment)
