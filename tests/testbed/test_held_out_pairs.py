"""The bundled stage 1 on pairs that differ in the works alone, from sources that training has not seen.

The pictures are not part of the project: the tests run where the folder of photos has opendata/ beside it.
"""

from pathlib import Path

import pytest

from benchmarks.held_out import frame_scores, pair_result, stage1, unseen_streets
from roadwork_serve.testbed.minis.data import photos_folder
from roadwork_serve.testbed.real_pictures.pair_test import Score, painted_pairs, pasted_pairs

WANTED = 0.85

FOUND = photos_folder()
PHOTOS = Path("photos") if FOUND is None else FOUND
OPENDATA = PHOTOS.parent / "opendata"
pytestmark = pytest.mark.skipif(not OPENDATA.is_dir(), reason="the photos and opendata are not on this machine")


@pytest.fixture(scope="module")
def score() -> Score:
    return stage1()


def test_the_score_falls_when_the_works_are_painted_out(score: Score) -> None:
    found = pair_result(painted_pairs(PHOTOS, OPENDATA), score)
    assert found.pairs >= 40
    assert found.share >= WANTED
    assert found.median >= 1.0


def test_the_score_rises_when_cones_are_pasted_on_the_road(score: Score) -> None:
    found = pair_result(pasted_pairs(unseen_streets(PHOTOS), OPENDATA, PHOTOS), score)
    assert found.pairs >= 100
    assert found.share >= WANTED
    assert found.median >= 0.5


def test_the_labeled_frames_of_both_held_out_clips_are_scored(score: Score) -> None:
    found = frame_scores(PHOTOS, score)
    assert {frame.clip for frame in found} == {"columbus", "minneapolis"}
    assert {frame.label for frame in found} == {"roadwork", "none", "unclear"}
