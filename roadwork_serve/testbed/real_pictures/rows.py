"""Rows for calibrating the policy of the profile `cpu`: scores of stage 1 by heads that have not seen the camera.

python -m roadwork_serve.testbed.real_pictures.rows SCORES --rows ROWS --out FILE
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord, read_rows, write_rows
from roadwork_serve.heads.linear_fit import group_weights
from roadwork_serve.schema import MediaKind
from roadwork_serve.testbed.real_pictures.train import OutOfFold

MODEL = "bundled:efficientnet-lite2"
# Stages that were not run count as abstaining.
_PHOTO, _CLIP = (
    tuple(StageRecord(stage, None, None, "", True) for stage in stages)
    for stages in (("signs", "vlm", "reasoner"), ("signs", "video"))
)


def read_scores(file: Path) -> list[OutOfFold]:
    """Read the scores that training wrote."""
    lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return [OutOfFold(**{**line, "frames": tuple(line["frames"])}) for line in lines]


def calibration_rows(scores: Sequence[OutOfFold], evaluated: Mapping[str, EvaluationRow]) -> list[EvaluationRow]:
    """Return a photo and a clip for every scored picture, weighted evenly over labels and by source.

    A photo has the out-of-fold score of stage 1, and the predictions of later stages where they were run. A clip is the
    same picture panned and zoomed: stage 1's score is the mean of the two highest frames, as in serving.

    Args:
        scores: Out-of-fold scores.
        evaluated: Rows of `roadwork evaluate --all-stages` by name.
    """
    labels = np.array([score.label == 1 for score in scores])
    weights = group_weights(labels, np.array([score.camera for score in scores])) * len(scores)
    rows = []
    for score, weight in zip(scores, weights, strict=True):
        known = evaluated.get(score.key)
        text = None if known is None or (old := known.record("backbone")) is None else old.text_probability
        closer = StageRecord("closeup", score.closeup, None, MODEL, False)
        seen = ("backbone", "closeup")  # by heads that saw the camera
        later = _PHOTO if known is None else tuple(each for each in known.records if each.stage not in seen)
        highest = float(np.sort(score.frames)[-2:].mean())
        parts: tuple[tuple[MediaKind, float, tuple[StageRecord, ...]], ...] = (
            ("photo", score.logit, (closer, *later)), ("clip", highest, _CLIP),
        )  # fmt: skip
        for kind, logit, records in parts:
            metadata = SampleMetadata(
                name=score.key, kind=kind, label=score.label == 1, group=score.camera, source=score.camera
            )
            record = StageRecord("backbone", logit, None, MODEL, False, text_probability=text)
            row = EvaluationRow(
                metadata, 0.5, False, "backbone", "last_stage", False, (record, *records), weight=float(weight)
            )
            rows.append(row)
    return rows


def main() -> None:
    """Join scores and rows."""
    parser = argparse.ArgumentParser(prog="rows", description=__doc__)
    parser.add_argument("scores", type=Path, help="out-of-fold.jsonl of the training")
    parser.add_argument("--rows", type=Path, required=True, help="rows of `roadwork evaluate --all-stages --rows`")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    evaluated = {row.metadata.name: row for row in read_rows(given.rows)}
    write_rows(given.out, calibration_rows(read_scores(given.scores), evaluated))


if __name__ == "__main__":
    main()
