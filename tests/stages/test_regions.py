"""Regions and heat maps from the logits of a patch head."""

import numpy as np
import pytest

from roadwork_serve.stages.regions import MAX_CELLS, MAX_REGIONS, heat_map, regions, regions_of_frames

CLASSES = ("cone", "worker")


def grid(side: int = 4) -> np.ndarray:
    return np.full((side, side, len(CLASSES)), -9.0, np.float32)


def test_touching_cells_are_one_region_with_their_common_box() -> None:
    logits = grid()
    logits[1, 0, 0], logits[2, 1, 0] = 2.0, 3.0
    (region,) = regions(logits, CLASSES)
    assert (region.kind, region.probability) == ("cone", pytest.approx(0.9526, abs=1e-4))
    assert (region.box.x0, region.box.y0, region.box.x1, region.box.y1) == (0.0, 0.25, 0.5, 0.75)


def test_classes_and_distant_cells_are_regions_of_their_own_in_order_of_probability() -> None:
    logits = grid()
    logits[0, 0, 0], logits[3, 3, 0], logits[0, 0, 1] = 1.0, 3.0, 2.0
    assert [(r.kind, r.box.x0) for r in regions(logits, CLASSES)] == [("cone", 0.75), ("worker", 0.0), ("cone", 0.0)]


def test_there_are_at_most_eight_regions() -> None:
    logits = grid(12)
    logits[::2, ::2, 0] = np.arange(1, 37).reshape(6, 6) / 10
    found = regions(logits, CLASSES)
    assert len(found) == MAX_REGIONS
    assert found[0].probability == pytest.approx(1 / (1 + np.exp(-3.6)), abs=1e-4)


def test_the_regions_of_a_clip_name_their_frames_and_are_as_many_as_of_a_photo() -> None:
    frames = np.stack([grid(12), grid(12)])
    frames[0, ::2, ::2, 0] = 1.0
    frames[1, 3, 3, 1] = 2.0
    found = regions_of_frames(frames, CLASSES)
    assert (found[0].frame, found[0].kind) == (1, "worker")
    assert len(found) == MAX_REGIONS and {region.frame for region in found[1:]} == {0}


def test_no_evidence_gives_no_region_and_a_cold_map() -> None:
    assert regions(grid(), CLASSES) == []
    assert heat_map(grid()) == [[0] * 4] * 4


@pytest.mark.parametrize("side", [1, 7, 16, 37])
def test_a_heat_map_keeps_the_peak_on_a_bounded_grid(side: int) -> None:
    logits = grid(side)
    logits[-1, -1, 1] = 9.0
    shown = heat_map(logits)
    assert len(shown) == len(shown[0]) == min(side, MAX_CELLS)
    assert shown[-1][-1] == 100
    assert sum(map(sum, shown)) == 100
