"""Segments of the real clips against the labels of frames."""

from typing import Any, cast

from benchmarks.real_drive import Label, compare

LABELS = [
    Label("a", 1, "roadwork"),
    Label("a", 5, "none"),
    Label("b", 7, "roadwork"),
    Label("b", 12, "roadwork"),
    Label("b", 16, "unclear"),
]


def test_a_gap_without_any_frame_that_justifies_it_is_false() -> None:
    found = cast("dict[str, Any]", compare([(0, 4), (8, 11), (13, 15), (17, 20)], LABELS))
    assert [(gap["begin_s"], gap["false"]) for gap in found["gaps"]] == [(4, False), (11, True), (15, False)]
    assert found["gaps"][0]["roadwork_frames"] == ["b 7.00 s"]
    assert found["labels"]["roadwork"] == {"frames": 3, "in_segments": 1}
    assert found["labels"]["none"] == {"frames": 1, "in_segments": 0}
