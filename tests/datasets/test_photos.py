from pathlib import Path

import pytest

from roadwork_serve.datasets.photos import photo_metadata, photo_samples
from roadwork_serve.errors import ConfigError

MANIFEST = """file,label,source_repo,path,licence,notes
roadwork/a.jpg,roadwork,town/drives,x#frame=1,"ODC-By-1.0 (A, B)",dashcam; group=clip_a
roadwork/b.jpg,roadwork,town/drives,x#frame=2,"ODC-By-1.0 (A, B)",AMBIGUOUS: a closure; group=clip_a
none/c.jpg,none,cones/repo,c.jpg,MIT,hard negative: cones in car park
none/d.jpg,none,cones/repo,d.jpg,MIT,
"""
FRAMES = """clip,frame,seconds,label
clips/on.mp4,1,0.1,unclear
clips/on.mp4,9,0.9,roadwork
clips/off.mp4,1,0.1,none
clips/off.mp4,2,0.2,unclear
clips/murky.mp4,1,0.1,unclear
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for line in MANIFEST.splitlines()[1:]:
        path = tmp_path / line.split(",")[0]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(path.name.encode())
    (tmp_path / "clips").mkdir()
    for name in ("on", "off", "murky"):
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(b"")
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    (tmp_path / "clips" / "frame_labels.csv").write_text(FRAMES)
    return tmp_path


def test_metadata_contains_group_ambiguity_and_hard_negatives(folder: Path) -> None:
    a, b, c, d, *_ = photo_metadata(folder)
    assert (a.label, a.ignore, a.group, a.source, a.licence) == (
        True,
        False,
        "clip_a",
        "town/drives",
        "ODC-By-1.0 (A, B)",
    )
    assert b.ignore
    assert (c.hard_negative, c.label, c.group) == (True, False, "cones/repo")
    assert not d.hard_negative


def test_a_clip_is_road_work_if_any_frame_is(folder: Path) -> None:
    clips = {
        metadata.name: (metadata.label, metadata.ignore)
        for metadata in photo_metadata(folder)
        if metadata.kind == "clip"
    }
    assert clips == {
        "clips/on.mp4": (True, False),
        "clips/off.mp4": (False, False),
        "clips/murky.mp4": (False, True),
    }


def test_samples_contain_the_files(folder: Path) -> None:
    assert next(photo_samples(folder, photo_metadata(folder))).data == b"a.jpg"


def test_a_manifest_of_open_data_has_objects_that_are_left_out_a_column_of_groups_and_tiers(folder: Path) -> None:
    (folder / "manifest.csv").write_text(
        "file,label,source_repo,path,licence,licence_source,group,notes\n"
        "roadwork/a.jpg,roadwork,town/drives,a,MIT,,clip_a,tier=A; dashcam\n"
        "none/c.jpg,none,cones/repo,c,CC BY 4.0,,,hard negative: cones; tier=B\n"
        "objects/gone.jpg,objects,cones/repo,d,CC BY 4.0,,parts,tier=A\n"
        "none/d.jpg,unclear,cones/repo,d,CC BY 4.0,,,\n"
    )
    a, c, d = (metadata for metadata in photo_metadata(folder) if metadata.kind == "photo")
    assert (a.group, a.tags, a.label) == ("clip_a", ("tier=A",), True)
    assert (c.group, c.tags, c.hard_negative, c.ignore) == ("cones/repo", ("tier=B",), True, False)
    assert (d.tags, d.ignore) == ((), True)


def test_an_invalid_folder_is_an_error_that_names_the_line(folder: Path) -> None:
    (folder / "none" / "d.jpg").unlink()
    with pytest.raises(ConfigError, match=r"d\.jpg is listed but missing"):
        photo_metadata(folder)
    (folder / "manifest.csv").write_text(MANIFEST.replace(",none,cones/repo,d", ",maybe,cones/repo,d"))
    with pytest.raises(ConfigError, match=r"manifest\.csv, line 5: label 'maybe'"):
        photo_metadata(folder)
    (folder / "manifest.csv").write_text("file,label\n")
    with pytest.raises(ConfigError, match="no column 'licence'"):
        photo_metadata(folder)
    with pytest.raises(ConfigError, match=r"takes a folder with a manifest\.csv"):
        photo_metadata(folder / "none")
