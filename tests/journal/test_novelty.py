import numpy as np
import pytest

from roadwork_serve.journal.novelty import build_reference, embedding
from roadwork_serve.journal.record import JournalRow
from tests.journal.made import entry


def case(name: str, vector: np.ndarray, **fields: object) -> JournalRow:
    return JournalRow(entry(name, features=np.atleast_2d(vector).astype(np.float16), **fields))


@pytest.fixture
def usual() -> list[JournalRow]:
    rng = np.random.default_rng(1)
    return [case(f"u{number}", rng.normal(3, (1, 5, 0.2, 0), 4)) for number in range(400)]


def test_frames_of_a_clip_are_averaged_and_missing_features_stay_missing() -> None:
    assert embedding(case("a", np.array([[0.0, 2.0], [1.0, 4.0]])).prediction).tolist() == [0.5, 3.0]  # type: ignore[union-attr]
    assert embedding(entry("b", features=None)) is None
    assert embedding(entry("c", features=np.zeros((0, 4), np.float16))) is None


def test_items_far_from_the_reference_are_novel(usual: list[JournalRow]) -> None:
    reference = build_reference(usual)
    assert reference is not None
    rng = np.random.default_rng(2)
    fresh = [case(f"f{number}", rng.normal(3, (1, 5, 0.2, 0), 4)).prediction for number in range(500)]
    far = [case(f"n{number}", np.array([3, 3, 3 + 3 * number, 3])).prediction for number in range(1, 4)]
    novelties, strange = reference.novelty(fresh), reference.novelty(far)
    assert np.median(novelties) < 0.1
    assert 0.001 < (novelties >= 0.5).mean() < 0.04
    assert (strange == 1).all()


def test_an_outlier_in_the_reference_is_still_novel(usual: list[JournalRow]) -> None:
    odd = case("odd", np.array([3, 3, 9, 3]))
    without, within = build_reference(usual), build_reference([*usual, odd])
    assert without is not None and within is not None
    assert without.novelty([odd.prediction]) == within.novelty([odd.prediction]) == 1


def test_novelty_is_unknown_for_other_backbones_and_missing_features(usual: list[JournalRow]) -> None:
    reference = build_reference([*usual, *(case(f"o{n}", np.ones(3), features_model="other") for n in range(60))])
    assert reference is not None and reference.model == "made"
    strangers = [
        entry("a", features=None),
        case("b", np.ones(4), features_model="other").prediction,
        case("c", np.ones(5)).prediction,
    ]
    assert np.isnan(reference.novelty(strangers)).all()


def test_few_predictions_are_no_reference_and_sampling_is_reproducible(usual: list[JournalRow]) -> None:
    assert build_reference(usual[:49]) is None
    assert build_reference([]) is None
    one, other = build_reference(usual, size=100), build_reference(usual[::-1], size=100)
    assert one is not None and other is not None
    assert one.rows.shape == (100, 4) and np.array_equal(one.rows, other.rows)


def test_identical_images_are_not_novel() -> None:
    reference = build_reference([case(f"{number}", np.ones(4)) for number in range(60)])
    assert reference is not None
    assert reference.novelty([case("a", np.ones(4)).prediction]).tolist() == [0.0]
