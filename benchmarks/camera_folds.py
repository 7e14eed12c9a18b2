"""Stage 1 of profile `cpu` and its closer look on the training pictures, by heads that have not seen the camera.

`python -m benchmarks.camera_folds SCORES`, where SCORES is the out-of-fold.jsonl of
`python -m roadwork_serve.testbed.real_pictures`.
"""

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.environment import Environment
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.policy import Policy, Query, Walk
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.evaluation.by_source import ScoredSet, SourceBreakdown, source_breakdown
from roadwork_serve.testbed.real_pictures.rows import read_scores
from roadwork_serve.testbed.real_pictures.sources import HARD_NEGATIVE_GROUPS
from roadwork_serve.testbed.real_pictures.train import OutOfFold

OUT = RESULTS / "camera-folds.json"
HARD = HARD_NEGATIVE_GROUPS | {"fsd_track"}  # groups of negatives with cones or vests


def camera_folds(scores: list[OutOfFold], policy: Policy, closer: bool = False) -> SourceBreakdown:
    """Compute the metrics by camera of stage 1, or of stage 1 and the closer look where the policy takes it."""
    posterior = np.array([_posterior(score, policy, closer) for score in scores])
    return source_breakdown(
        ScoredSet(
            truth=np.array([score.label == 1 for score in scores]),
            probability=posterior,
            predicted=posterior >= policy.decision_threshold,
            source=tuple(score.camera for score in scores),
            hard=np.array([score.group in HARD for score in scores]),
        )
    )


def _posterior(score: OutOfFold, policy: Policy, closer: bool) -> float:
    walk = Walk(policy, "photo")
    for move in walk:
        logit = {"backbone": score.logit, "closeup": score.closeup if closer else None}.get(move.step.stage)
        if isinstance(move, Query):
            walk.record(move.step, logit)
    return walk.progress.posterior


def main(arguments: list[str] | None = None) -> int:
    """Read the scores and write the result file."""
    parser = argparse.ArgumentParser("python -m benchmarks.camera_folds", description=__doc__)
    parser.add_argument("scores", type=Path, help="out-of-fold.jsonl of the training")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(arguments)
    policy = load_policy("cpu")
    scores = read_scores(chosen.scores)
    tiled = [score for score in scores if score.closeup is not None]
    result: dict[str, object] = {
        "policy": policy.version,
        "stage1": asdict(camera_folds(scores, policy)),
    }
    if tiled:
        result["with_closeup"] = asdict(camera_folds(tiled, policy, closer=True))
        result["without_closeup"] = asdict(camera_folds(tiled, policy))  # of the same pictures
    command = shlex.join(["python", "-m", "benchmarks.camera_folds", *(arguments or sys.argv[1:])])
    environment = asdict(Environment.here(command))
    write_json(chosen.out, result | {"environment": environment})
    print(f"Written to {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
