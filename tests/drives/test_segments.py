from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.drives.segments import FrameScore, doubtful_times, find_segments
from roadwork_serve.drives.smoothing import SmoothingModel

MODEL = SmoothingModel()


def scores(probabilities: Sequence[float | None], step_s: float = 0.5) -> list[FrameScore]:
    return [FrameScore(at * step_s, p) for at, p in enumerate(probabilities)]


def test_a_zone_is_one_segment_with_its_best_frame() -> None:
    found = find_segments(scores([0.05] * 20 + [0.8, 0.9, 0.99, 0.4, 0.9, 0.9] + [0.05] * 20), MODEL)
    assert len(found) == 1
    (zone,) = found
    assert zone.begin_s == pytest.approx(10, abs=0.6) and zone.end_s == pytest.approx(12.5, abs=0.6)
    assert zone.best_s == 11 and zone.probability > 0.9


def test_a_wavering_posterior_does_not_cut_a_segment() -> None:
    wavering = [0.05] * 20 + [0.9] * 6 + [0.45, 0.5, 0.4, 0.5] * 2 + [0.9] * 6 + [0.05] * 20
    assert len(find_segments(scores(wavering), MODEL)) == 1


def test_standing_in_works_is_one_segment_however_long() -> None:
    """Skipped frames stop the clock: five minutes at a light would outlast any zone otherwise."""
    found = find_segments(scores([0.05] * 20 + [0.9] * 4 + [None] * 600 + [0.9] * 4 + [0.05] * 20), MODEL)
    assert len(found) == 1 and found[0].seconds == pytest.approx(304, abs=2)


def test_a_single_frame_in_doubt_is_no_segment() -> None:
    assert find_segments(scores([0.05] * 20 + [0.6] + [0.05] * 20), MODEL) == []


def test_segments_reach_the_ends_of_a_drive() -> None:
    (whole,) = find_segments(scores([0.95] * 10), MODEL)
    assert (whole.begin_s, whole.end_s) == (0, 4.5)
    assert find_segments([], MODEL) == []


def test_what_was_seen_is_named_by_frequency() -> None:
    frames = [FrameScore(at / 2, 0.95, ("cone",) if at else ("sign: DETOUR", "cone")) for at in range(5)]
    assert find_segments(frames, MODEL)[0].seen == ("cone", "sign: DETOUR")


def test_doubtful_runs_give_one_time_each() -> None:
    doubtful = scores([0.01] * 20 + [0.9] * 4 + [0.01] * 20 + [0.98] * 10)
    times = doubtful_times(doubtful, MODEL, 0.1, 0.9)
    assert any(10 <= each <= 11.5 for each in times) and not any(each > 23 for each in times)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=60))
def test_segments_are_in_order_and_apart(probabilities: list[float | None]) -> None:
    frames = scores(probabilities)
    found = find_segments(frames, MODEL)
    for segment in found:
        assert 0 <= segment.begin_s <= segment.best_s <= segment.end_s <= frames[-1].time_s
        assert 0.6 - 1e-9 <= segment.probability <= 1
    assert all(before.end_s <= after.begin_s for before, after in pairwise(found))
