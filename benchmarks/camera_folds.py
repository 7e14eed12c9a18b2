"""Stage 1 of the profile `cpu` on the pictures that trained it, each by a head that has not seen its camera.

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
from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.evaluation.by_source import ScoredSet, SourceBreakdown, source_breakdown
from roadwork_serve.testbed.real_pictures.rows import read_scores
from roadwork_serve.testbed.real_pictures.sources import HARD_NEGATIVE_GROUPS
from roadwork_serve.testbed.real_pictures.train import OutOfFold

OUT = RESULTS / "camera-folds.json"
HARD = HARD_NEGATIVE_GROUPS | {"fsd_track"}  # groups of negatives with cones or vests


def camera_folds(scores: list[OutOfFold], prior: float) -> SourceBreakdown:
    """Compute the metrics by camera; prior: share of road work that the probabilities assume."""
    posterior = 1 / (1 + np.exp(-np.array([score.logit for score in scores]) - logit(prior)))
    return source_breakdown(
        ScoredSet(
            truth=np.array([score.label == 1 for score in scores]),
            probability=posterior,
            predicted=posterior >= 0.5,
            source=tuple(score.camera for score in scores),
            hard=np.array([score.group in HARD for score in scores]),
        )
    )


def main(arguments: list[str] | None = None) -> int:
    """Read the scores and write the result file."""
    parser = argparse.ArgumentParser("python -m benchmarks.camera_folds", description=__doc__)
    parser.add_argument("scores", type=Path, help="out-of-fold.jsonl of the training")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(arguments)
    policy = load_policy("cpu")
    found = camera_folds(read_scores(chosen.scores), policy.prior)
    command = shlex.join(["python", "-m", "benchmarks.camera_folds", *(arguments or sys.argv[1:])])
    environment = asdict(Environment.here(command))
    write_json(chosen.out, {"policy": policy.version, "stage1": asdict(found), "environment": environment})
    print(f"Written to {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
