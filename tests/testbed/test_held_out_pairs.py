"""The bundled stage 1 on pairs that differ in the works alone, from sources that training has not seen.

The pictures are not part of the project: the tests run where the folder of photos has opendata/ beside it.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.training_data import training_data
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.testbed.minis.data import photos_folder
from roadwork_serve.testbed.real_pictures.pair_test import Score, painted_pairs, pasted_pairs, score_pairs

MODEL = "mini:efficientnet-lite2"
SIDE = 224
WANTED = 0.85

PHOTOS = photos_folder()
OPENDATA = None if PHOTOS is None else PHOTOS.parent / "opendata"
pytestmark = pytest.mark.skipif(
    OPENDATA is None or not OPENDATA.is_dir(), reason="the photos and opendata are not on this machine"
)


@pytest.fixture(scope="module")
def score() -> Score:
    engine = FeatureEngine(weights_folder(MODEL))

    def logits(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        return engine.logits(thumbs)["roadwork"]

    return logits


def test_the_score_falls_when_the_works_are_painted_out(score: Score) -> None:
    assert PHOTOS is not None and OPENDATA is not None
    moves = score_pairs(painted_pairs(PHOTOS, OPENDATA), score, SIDE)
    assert len(moves) >= 40
    assert (moves > 0).mean() >= WANTED
    assert np.median(moves) >= 1.0


def test_the_score_rises_when_cones_are_pasted_on_the_road(score: Score) -> None:
    assert PHOTOS is not None and OPENDATA is not None
    moves = score_pairs(pasted_pairs(unseen_streets(PHOTOS), OPENDATA, PHOTOS), score, SIDE)
    assert len(moves) >= 100
    assert (moves > 0).mean() >= WANTED
    assert np.median(moves) >= 0.5


def unseen_streets(photos: Path) -> list[Path]:
    """Return the photos without works whose sources taught nothing."""
    seen = training_data([weights_folder(MODEL)])
    with (photos / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "none" and "AMBIGUOUS" not in row["notes"]]
    return [photos / row["file"] for row in rows if not seen.covers(row["source_repo"], "")]
