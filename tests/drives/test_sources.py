import os
from pathlib import Path

import pytest

from roadwork_serve.drives.sources import Recording, chains, find_recordings


def recordings(folder: Path, *names: str) -> list[Recording]:
    for name in names:
        (folder / name).touch()
    return find_recordings([folder])


@pytest.mark.parametrize(
    ("names", "drives"),
    [
        (("GX010002.MP4", "GX020001.MP4", "GX010001.MP4"), [["GX010001.MP4", "GX020001.MP4"], ["GX010002.MP4"]]),
        (("GOPR0004.MP4", "GP010004.MP4"), [["GOPR0004.MP4", "GP010004.MP4"]]),
        (
            ("2026_0504_083000_001A.MP4", "2026_0504_083100_002A.MP4", "2026_0504_090000_003A.MP4"),
            [["2026_0504_083000_001A.MP4", "2026_0504_083100_002A.MP4"], ["2026_0504_090000_003A.MP4"]],
        ),
        (("20260504_083000_NF.mp4", "20260504_083100_NF.mp4"), [["20260504_083000_NF.mp4", "20260504_083100_NF.mp4"]]),
        (("a2.mp4", "a10.mp4"), [["a2.mp4"], ["a10.mp4"]]),
    ],
)
def test_chapters_are_joined_in_their_order(tmp_path: Path, names: tuple[str, ...], drives: list[list[str]]) -> None:
    found = recordings(tmp_path, *names)
    joined = chains(found, [60.0] * len(found))
    assert [[found[number].name for number in drive] for drive in joined] == drives


def test_sidecars_and_times_are_found(tmp_path: Path) -> None:
    (tmp_path / "DJI_0001.SRT").touch()
    first, second = recordings(tmp_path, "DJI_0001.MP4", "2026-05-04 08.30.00.mp4")[::-1]
    found = {each.name: each for each in (first, second)}
    assert found["DJI_0001.MP4"].sidecar == tmp_path / "DJI_0001.SRT" and found["DJI_0001.MP4"].named_start_s is None
    assert found["2026-05-04 08.30.00.mp4"].named_start_s == 1777883400.0


def test_each_file_is_found_once_and_others_are_left_out(tmp_path: Path) -> None:
    found = recordings(tmp_path, "a.mp4", "b.jpg", "notes.txt", ".hidden.mp4")
    assert [(each.name, each.photo) for each in found] == [("a.mp4", False), ("b.jpg", True)]
    assert len(find_recordings([tmp_path, tmp_path / "a.mp4"])) == 2


def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"stra\xdfe.mp4")
    path.write_bytes(b"one")
    for found in (find_recordings([path]), find_recordings([tmp_path])):
        assert found[0].name == r"stra\xdfe.mp4" and found[0].path == path and found[0].identity()


def test_the_identity_follows_the_content(tmp_path: Path) -> None:
    for folder, data in (("x", b"one"), ("y", b"one"), ("z", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").write_bytes(data)
    x, y, z = (Recording(tmp_path / folder / "a.mp4", "a.mp4").identity() for folder in "xyz")
    assert x == y != z
