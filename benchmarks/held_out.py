"""Stage 1 of the profile `cpu` on pairs and clip frames that training has not seen: `python -m benchmarks.held_out`.

Pairs differ in the works alone: painted out of a picture, or cones pasted on a street. The frames are those with labels
of the two clips that teach nothing. The photos are not part of the project; name their folder with --data.
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import Environment
from benchmarks.real_photos import DATA
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx_features import OnnxFeatures
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.engines.training_data import training_data
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.testbed.real_pictures.pair_test import HeldOutPair, Score, painted_pairs, pasted_pairs, score_pairs
from roadwork_serve.testbed.real_pictures.sources import HELD_OUT, video_frames

OUT = RESULTS / "held-out.json"
MODEL = "bundled:efficientnet-lite2"
SIDE = 224


@dataclass(frozen=True)
class PairResult:
    """Moves of the score within pairs of one kind."""

    pairs: int
    #: Share of the pairs whose score moves as it should.
    share: float
    #: Median move in the right direction, log-odds.
    median: float


@dataclass(frozen=True)
class FrameScore:
    """The score of a labeled frame."""

    clip: str
    frame: int
    label: str
    logit: float


def stage1(model: str = MODEL) -> Score:
    """Return the function that scores thumbnails with the head of the weights."""
    engine = OnnxFeatures(weights_folder(model), LoadOptions.of(load_profile("cpu").engine_of("backbone")))

    def score(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        return engine.apply_heads(engine.extract(thumbs))[ROADWORK]

    return score


def pair_result(pairs: Sequence[HeldOutPair], score: Score) -> PairResult:
    """Score pairs of one kind."""
    moves = score_pairs(pairs, score, SIDE)
    return PairResult(len(moves), float((moves > 0).mean()), float(np.median(moves)))


def unseen_streets(photos: Path) -> list[Path]:
    """Return the photos without works whose sources taught nothing."""
    seen = training_data([weights_folder(MODEL)])
    with (photos / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "none" and "AMBIGUOUS" not in row["notes"]]
    return [photos / row["file"] for row in rows if not seen.covers(row["source_repo"], "")]


def frame_scores(photos: Path, score: Score) -> list[FrameScore]:
    """Score the labeled frames of the clips that teach nothing."""
    wanted: dict[str, dict[int, str]] = {}
    with (photos / "clips/frame_labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if f"clip_{Path(row['clip']).stem}" in HELD_OUT:
                wanted.setdefault(row["clip"], {})[int(row["frame"])] = row["label"]
    found = []
    for clip, labels in wanted.items():
        images = video_frames(photos / clip, set(labels))
        thumbs = np.stack([np.asarray(images[frame].resize((SIDE, SIDE))) for frame in labels])
        scores = zip(labels.items(), score(thumbs), strict=True)
        found += [FrameScore(Path(clip).stem, frame, label, float(logit)) for (frame, label), logit in scores]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Score the pairs and the frames, and write the result file."""
    parser = argparse.ArgumentParser("python -m benchmarks.held_out", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with photos/ and opendata/; %(default)s")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(arguments)
    photos, opendata, score = chosen.data / "photos", chosen.data / "opendata", stage1()
    painted = pair_result(painted_pairs(photos, opendata), score)
    pasted = pair_result(pasted_pairs(unseen_streets(photos), opendata, photos), score)
    frames = [asdict(frame) for frame in frame_scores(photos, score)]
    environment = asdict(Environment.here(shlex.join(["python", "-m", "benchmarks.held_out", *sys.argv[1:]])))
    result = {"painted_out": asdict(painted), "pasted": asdict(pasted), "frames": frames, "environment": environment}
    write_json(chosen.out, result)
    print(f"painted out: {painted}\npasted: {pasted}\nWritten to {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
