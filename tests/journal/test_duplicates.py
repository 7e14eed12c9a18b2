import numpy as np
import pytest

from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.journal.duplicates import DuplicateFinder, DuplicateRule, without_duplicates
from roadwork_serve.journal.record import JournalRow, PredictionRecord
from roadwork_serve.media import squash
from roadwork_serve.testbed import scenes
from tests.journal.made import entry


def unit(*angles: float) -> list[np.ndarray]:
    return [np.array([[np.cos(a), np.sin(a), 0, 0]], np.float16) for a in np.radians(angles)]


def test_equal_files_are_duplicates_with_or_without_features() -> None:
    seen = DuplicateFinder()
    assert seen.duplicate_of(entry("a", sha256="x", features=None)) is None
    assert seen.duplicate_of(entry("b", sha256="x")) == "a"
    assert seen.duplicate_of(entry("c", sha256="y", features=None)) is None


def test_similar_features_are_duplicates_and_a_shared_key_lowers_the_threshold() -> None:
    still, close, near, away = unit(0, 5, 15, 30)  # cosines to the first: 0.996, 0.966, 0.866
    seen = DuplicateFinder()
    assert seen.duplicate_of(entry("still", features=still, key="trip", created_at_s=0)) is None
    assert seen.duplicate_of(entry("close", features=close, key="other", created_at_s=1e6)) == "still"
    assert seen.duplicate_of(entry("near", features=near, key="trip", created_at_s=9)) == "still"
    assert seen.duplicate_of(entry("away", features=away, key="trip", created_at_s=9)) is None
    assert DuplicateFinder().duplicate_of(entry("still", features=still)) is None


@pytest.mark.parametrize(
    "other",
    [{"key": "other", "created_at_s": 1.0}, {"key": "trip", "created_at_s": 11.0}, {"features_model": "another"}],
)
def test_the_lower_threshold_requires_nearby_time_same_key_and_backbone(other: dict) -> None:
    first, near = unit(0, 15)
    seen = DuplicateFinder()
    seen.duplicate_of(entry("first", features=first, key="trip", created_at_s=0.0))
    assert seen.duplicate_of(entry("near", **({"features": near, "key": "trip", "created_at_s": 1.0} | other))) is None


def test_without_a_key_the_lower_threshold_never_applies() -> None:
    first, near = unit(0, 15)
    seen = DuplicateFinder()
    seen.duplicate_of(entry("first", features=first))
    assert seen.duplicate_of(entry("near", features=near)) is None


def test_only_the_last_items_are_remembered() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (300, 1, 32)).astype(np.float16)
    cases = [JournalRow(entry(f"{n}", features=vector)) for n, vector in enumerate(vectors)]
    again = [JournalRow(entry(f"again{n}", features=vectors[n], sha256=f"{n}")) for n in (299, 201, 5)]
    found = [case.prediction.id for case in without_duplicates([*cases, *again], window=100)]
    assert found == [*(f"{n}" for n in range(300)), "again5"]


@pytest.fixture(scope="module")
def scene_records() -> tuple[list[list[PredictionRecord]], list[PredictionRecord]]:
    """Return records of five clips, a quarter of a second between frames, and of twenty stills, with real features."""
    engine = FeatureEngine(weights_folder("bundled:backbone"))

    def seen(name: str, images: list, key: str) -> list[PredictionRecord]:
        kept = engine.stored_features(engine.extract(np.stack([squash(image, engine.side) for image in images])))
        return [
            entry(f"{name}-{at}", features=vector[None], key=key, created_at_s=0.25 * at)
            for at, vector in enumerate(kept)
        ]

    clips = [seen(f"clip{n}", list(scenes.clip(720_000 + n, 0.5, 8).frames), f"clip{n}") for n in range(5)]
    return clips, seen("still", [scenes.photo(820_000 + n, 0.5).image for n in range(20)], "")


def test_frames_of_one_clip_are_duplicates_and_different_scenes_are_not(
    scene_records: tuple[list[list[PredictionRecord]], list[PredictionRecord]],
) -> None:
    clips, stills = scene_records
    frames = [each for clip in clips for each in clip]
    shown = [case.prediction.id for case in without_duplicates(JournalRow(each) for each in [*frames, *stills])]
    assert [name for name in shown if name.startswith("still")] == [each.id for each in stills]
    assert {name.split("-")[0] for name in shown if name.startswith("clip")} == {f"clip{n}" for n in range(5)}
    assert len(shown) - len(stills) <= len(frames) / 3


def test_all_frames_of_a_clip_are_kept_if_nothing_counts_as_duplicate(
    scene_records: tuple[list[list[PredictionRecord]], list[PredictionRecord]],
) -> None:
    clip = scene_records[0][0]
    apart = DuplicateRule(anywhere=1.01, nearby=1.01)
    assert len(list(without_duplicates((JournalRow(each) for each in clip), apart))) == len(clip)
