import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roadwork_serve.datasets.base import CorruptItem, Dataset
from roadwork_serve.datasets.coco import ACTIVE, DOUBTFUL, group_of
from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed import scenes
from tests.evaluation.fakes import BLUE, GREY, PINK, RED, jpeg, write_jpeg

# The 17 categories of ROADWork's annotations.
ROADWORK = (
    "Police Officer", "Police Vehicle", "Cone", "Fence", "Drum", "Barricade", "Barrier", "Work Vehicle",
    "Vertical Panel", "Tubular Marker", "Arrow Board", "Bike Lane", "Work Equipment", "Worker",
    "Other Roadwork Objects", "TTC Message Board", "TTC Sign",
)  # fmt: skip


def _samples(dataset: Dataset) -> list[Sample | CorruptItem]:
    return list(dataset.samples(dataset.items()))


def test_a_folder_of_classes_with_groups_below(tmp_path: Path) -> None:
    for name in ("roadwork/a.jpg", "roadwork/trip-7/b.jpg", "none/trip-7/deep/c.jpg", "none/d.mp4", "none/.hidden"):
        write_jpeg(tmp_path / name, RED)
    dataset = open_dataset(str(tmp_path))
    found = {
        each.metadata.name: (each.metadata.label, each.metadata.group, each.metadata.kind) for each in dataset.items()
    }
    assert found == {
        "roadwork/a.jpg": (True, "", "photo"),
        "roadwork/trip-7/b.jpg": (True, "trip-7", "photo"),
        "none/d.mp4": (False, "", "clip"),
        "none/trip-7/deep/c.jpg": (False, "trip-7/deep", "photo"),
    }
    assert [each.metadata.name for each in _samples(dataset) if isinstance(each, Sample)] == list(found)


def test_a_folder_without_a_class_is_rejected(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "roadwork/a.jpg", RED)
    with pytest.raises(ConfigError, match=r"none holds no files"):
        open_dataset(str(tmp_path))


def test_a_missing_file_is_reported_as_corrupt(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "roadwork/a.jpg", RED)
    write_jpeg(tmp_path / "none/b.jpg", BLUE)
    dataset = open_dataset(str(tmp_path))
    (tmp_path / "none/b.jpg").unlink()
    assert _samples(dataset)[1] == CorruptItem("none/b.jpg", f"No such file or directory: {tmp_path}/none/b.jpg")


def test_a_folder_with_links_odd_names_and_junk_loses_nothing(tmp_path: Path) -> None:
    """Linked folders are followed once, and what cannot be read is named."""
    data, elsewhere = tmp_path / "data", tmp_path / "trip9"
    write_jpeg(data / "roadwork/a.jpg", RED)
    write_jpeg(data / "none/b.jpg", BLUE)
    write_jpeg(elsewhere / "c.jpg", PINK)
    odd = os.fsencode(data / "none") + b"/stra\xdfe.jpg"
    Path(os.fsdecode(odd)).write_bytes(jpeg(GREY))
    (data / "roadwork/trip9_link").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(elsewhere)
    (data / "roadwork/up").symlink_to(data)
    (data / "none/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(data / "none/pipe")
    dataset = open_dataset(str(data))
    assert {(each.metadata.name, each.metadata.group) for each in dataset.items()} == {
        ("roadwork/a.jpg", ""), ("roadwork/trip9_link/c.jpg", "trip9_link"), ("none/b.jpg", ""),
        (r"none/stra\xdfe.jpg", ""), ("none/gone.jpg", ""), ("none/pipe", ""),
    }  # fmt: skip
    found = _samples(dataset)
    assert {each.data for each in found if isinstance(each, Sample)} == {jpeg(each) for each in (RED, PINK, BLUE, GREY)}
    assert {each.name: each.reason for each in found if isinstance(each, CorruptItem)} == {
        "none/gone.jpg": f"it is a link to {tmp_path}/nowhere.jpg: No such file or directory",
        "none/pipe": "it is neither a file nor a folder",
    }


@pytest.mark.parametrize("name", ["list.csv", "LIST.CSV", "list.tsv", "list.txt"])
def test_a_manifest_is_a_table_of_any_kind(tmp_path: Path, name: str) -> None:
    write_jpeg(tmp_path / "trip 1/straße.jpg", RED)
    (tmp_path / name).write_bytes("File\tLabel\r\n.\\trip 1\\straße.jpg\troadwork\r\n\t\r\n".encode("utf-16"))
    (sample,) = _samples(open_dataset(str(tmp_path / name)))
    assert isinstance(sample, Sample) and sample.data == jpeg(RED)
    assert sample.metadata.name == "trip 1/straße.jpg"


@pytest.mark.parametrize("written", ["a\\gone.jpg", "C:\\photos\\gone.jpg", "a/\0.jpg"])
def test_a_path_that_is_not_found_is_named(tmp_path: Path, written: str) -> None:
    (tmp_path / "list.csv").write_text(f"file,label\n{written},none\n")
    (item,) = _samples(open_dataset(str(tmp_path / "list.csv")))
    assert isinstance(item, CorruptItem)
    expected = {"a": f"{tmp_path}/a/gone.jpg", "C": "C:/photos/gone.jpg, a path on a drive of Windows"}
    assert expected[written[0]] in item.reason if "\0" not in written else "null byte" in item.reason


def test_photos_may_have_a_manifest_of_a_spreadsheet_with_paths_of_windows(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "none/straße.jpg", RED)
    text = "file;label;source_repo;path;licence;notes\r\nnone\\straße.jpg;none;town;x;MIT;\r\n"
    (tmp_path / "manifest.csv").write_bytes(text.encode("latin-1"))
    (sample,) = _samples(open_dataset(str(tmp_path)))
    assert isinstance(sample, Sample) and sample.metadata.name == "none/straße.jpg"


def test_a_general_manifest(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "a.jpg", RED)
    (tmp_path / "list.csv").write_text(
        "file,label,group,licence,source,hard_negative,has_text,tags,extra\n"
        "a.jpg,roadwork,site-1,MIT,mine,,yes,rain; night,1\n"
        "b.jpg,none,site-2,CC0,mine,yes,no,,2\n"
        "c.jpg,unclear,,,,,,,3\n"
    )
    listed = open_dataset(str(tmp_path / "list.csv")).items()
    a, b, c = (each.metadata for each in listed)
    assert [each.has_text for each in listed] == [1.0, 0.0, pytest.approx(float("nan"), nan_ok=True)]
    assert (a.label, a.group, a.licence, a.source, a.tags) == (True, "site-1", "MIT", "mine", ("rain", "night"))
    assert (b.label, b.hard_negative, b.ignore) == (False, True, False)
    assert c.ignore


def test_a_folder_with_the_manifest_of_photos(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "none/a.jpg", RED)
    (tmp_path / "manifest.csv").write_text(
        "file,label,source_repo,path,licence,notes\nnone/a.jpg,none,town,x,MIT,hard negative: cones; group=clip_a\n"
    )
    (metadata,) = (each.metadata for each in open_dataset(str(tmp_path)).items())
    assert (metadata.group, metadata.hard_negative, metadata.licence) == ("clip_a", True, "MIT")


def test_errors_name_the_line_to_correct(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("file,label\na.jpg,maybe\n")
    with pytest.raises(ConfigError, match=r"line 2: label 'maybe'"):
        open_dataset(str(tmp_path))
    path.write_text("file,label\n,none\n")
    with pytest.raises(ConfigError, match="line 2: file is empty"):
        open_dataset(str(path))
    path.write_text("file,label,has_text\na.jpg,none,some\n")
    with pytest.raises(ConfigError, match="line 2: has_text 'some'"):
        open_dataset(str(path))
    path.write_text("name,label\na.jpg,none\n")
    with pytest.raises(ConfigError, match="no column 'file'"):
        open_dataset(str(path))
    path.write_text("file,label\n")
    with pytest.raises(ConfigError, match="lists no files"):
        open_dataset(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as CSV"):
        open_dataset(str(path))


def natix(path: Path, images: list[bytes], labels: list[int | None]) -> Path:
    """Write a Parquet file of NATIX's schema."""
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": data, "path": f"{at}.jpg"} for at, data in enumerate(images)],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": pa.array(labels, pa.int64()),
            "scene_description": pa.array(["a road"] * len(images)),
            "weather": pa.array(["rain"] * len(images)),
            "objects": pa.array([["cone", "car"]] * len(images), pa.list_(pa.string())),
            "more": pa.array(['["day", "town"]'] * len(images)),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    return path


def test_natix_rows(tmp_path: Path) -> None:
    pictures = [jpeg((40 * at, 0, 0)) for at in range(5)]
    natix(tmp_path / "train-0.parquet", pictures, [1, 0, None, 0, 1])
    dataset = open_dataset(f"natix:{tmp_path}")
    listed = dataset.items()
    assert [each.metadata.label for each in listed] == [True, False, False, False, True]
    assert [not each.metadata.ignore for each in listed] == [True, True, False, True, True]
    assert listed[0].metadata.tags == ("rain", "cone", "car", "day", "town")
    some = [listed[1], listed[4]]
    assert [each.data for each in dataset.samples(some) if isinstance(each, Sample)] == [pictures[1], pictures[4]]


def test_natix_shards_are_read_in_order_and_rows_without_an_image_are_corrupt(tmp_path: Path) -> None:
    natix(tmp_path / "b.parquet", [jpeg(RED)], [1])
    natix(tmp_path / "a.parquet", [b"", jpeg(BLUE)], [0, 0])
    dataset = open_dataset(f"natix:{tmp_path}")
    empty, blue, red = _samples(dataset)
    assert empty == CorruptItem("a-000000", "the row has no picture")
    assert [each.data for each in (blue, red) if isinstance(each, Sample)] == [jpeg(BLUE), jpeg(RED)]


def test_tables_are_told_by_their_bytes_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    natix(tmp_path / "data/part-0.pq", [jpeg(RED)], [1])
    natix(tmp_path / "train", [jpeg(BLUE)], [0])
    (tmp_path / "README.md").write_text("# card")
    (tmp_path / "_SUCCESS").touch()
    for uri in (f"natix:{tmp_path}", str(tmp_path / "train")):
        found = [each.data for each in _samples(open_dataset(uri)) if isinstance(each, Sample)]
        assert found == ([jpeg(RED), jpeg(BLUE)] if uri.startswith("natix") else [jpeg(BLUE)])


def test_natix_rows_may_have_paths_instead_of_bytes(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "images/a.jpg", RED)
    cells = [
        {"bytes": None, "path": "images/a.jpg"}, {"bytes": None, "path": "images\\a.jpg"},
        {"bytes": None, "path": str(tmp_path / "images/a.jpg")}, {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": None},
    ]  # fmt: skip
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [1] * 5}), tmp_path / "t.parquet")
    *found, gone, empty = _samples(open_dataset(f"natix:{tmp_path / 't.parquet'}"))
    assert [each.data for each in found if isinstance(each, Sample)] == [jpeg(RED)] * 3
    assert isinstance(gone, CorruptItem) and gone.reason == f"No such file or directory: {tmp_path}/gone.jpg"
    assert isinstance(empty, CorruptItem) and empty.reason == "the row has no picture"


def test_natix_files_with_another_schema_are_rejected(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="no column 'image': it has label"):
        open_dataset(f"natix:{tmp_path / 'x.parquet'}")
    (tmp_path / "y.parquet").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        open_dataset(f"natix:{tmp_path / 'y.parquet'}")
    natix(tmp_path / "z.parquet", [jpeg(RED)], [7])
    with pytest.raises(ConfigError, match="row 0: label 7"):
        open_dataset(f"natix:{tmp_path / 'z.parquet'}").items()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="nor a folder that holds one"):
        open_dataset(f"natix:{tmp_path / 'empty'}")


def coco(folder: Path, images: dict[str, tuple[str, ...]]) -> Path:
    """Write ROADWork annotations with these categories for each image."""
    names = list(images)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    path = folder / "annotations" / "instances.json"
    annotations = {
        "categories": [{"id": at, "name": name} for at, name in enumerate(ROADWORK, 1)],
        "images": [{"id": at, "file_name": name} for at, name in enumerate(names)],
        "annotations": [
            {"id": 0, "image_id": names.index(name), "category_id": ROADWORK.index(kind) + 1, "bbox": [0, 0, 1, 1]}
            for name, kinds in images.items()
            for kind in kinds
        ],
    }
    path.write_text(json.dumps(annotations))
    return path


def test_roadwork_annotations(tmp_path: Path) -> None:
    images = {
        "pgh07_00012.jpg": ("Cone", "TTC Sign"),
        "los_angeles_12_3_00450.jpg": (),
        "los_angeles_12_4_00010.jpg": ("TTC Sign", "Police Vehicle"),
    }
    for name in images:
        write_jpeg(tmp_path / "images" / name, RED)
    cone, empty, sign = (each.metadata for each in open_dataset(f"coco:{coco(tmp_path, images)}").items())
    assert (cone.label, cone.ignore, cone.group, cone.tags) == (True, False, "pittsburgh 07", ("cone", "ttc sign"))
    assert (empty.label, empty.ignore, empty.group) == (False, False, "los_angeles 12")
    assert (sign.label, sign.ignore, sign.group) == (False, True, "los_angeles 12")
    assert "ODC-By" in cone.licence
    assert len(_samples(open_dataset(f"coco:{tmp_path / 'annotations/instances.json'}"))) == 3


def test_every_roadwork_category_is_mapped() -> None:
    assert {name.lower() for name in ROADWORK} <= ACTIVE | DOUBTFUL
    assert not ACTIVE & DOUBTFUL


def test_unknown_file_names_have_no_group() -> None:
    assert group_of("IMG0012.jpg") == ""


def test_annotations_with_another_schema_are_rejected(tmp_path: Path) -> None:
    path = coco(tmp_path, {"pgh07_00012.jpg": ("Cone",)})
    with pytest.raises(ConfigError, match="put the images into one of them"):
        open_dataset(f"coco:{path}")
    path.write_text(path.read_text().replace("Cone", "Kite"))
    annotations = json.loads(path.read_text())
    annotations["categories"] = [{"id": 1, "name": "kite"}]
    annotations["annotations"] = []
    path.write_text(json.dumps(annotations))
    with pytest.raises(ConfigError, match=r"categories kite: none of ROADWork's"):
        open_dataset(f"coco:{path}")
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a COCO annotation file"):
        open_dataset(f"coco:{path}")


def test_scene_metadata_is_known_before_rendering() -> None:
    dataset = open_dataset("scenes:10:7")
    listed = dataset.items()
    drawn = list(dataset.samples(listed[:1] + listed[9:]))
    for each, sample in zip(listed[:1] + listed[9:], drawn, strict=True):
        assert isinstance(sample, Sample)
        assert (sample.metadata.name, sample.metadata.label, sample.metadata.needs) == (
            each.metadata.name, each.metadata.label, each.metadata.needs,
        )  # fmt: skip
    assert [each.metadata.kind for each in listed] == ["photo"] * 9 + ["clip"]
    assert len({each.identity for each in listed}) == 10
    assert {each.has_text for each in listed} == {0.0, 1.0}
    assert isinstance(drawn[0], Sample) and drawn[0].data == scenes.photo(7_000_000).jpeg()


@pytest.mark.parametrize("uri", ["scenes:0", "scenes:many", "scenes:5:x", "scenes:"])
def test_scene_uris_have_one_spelling(uri: str) -> None:
    with pytest.raises(ConfigError, match="write scenes:N:SEED"):
        open_dataset(uri)


def test_errors_explain_why_a_uri_is_not_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    for uri, message in (
        (str(tmp_path / "nowhere"), "does not exist"),
        (str(tmp_path / "notes.md"), "is a file of an unknown type; a dataset is a folder"),
        (str(tmp_path / "notes.txt"), "no column 'file'; its first line must name file and label; it has hello"),
        (str(tmp_path), "has no manifest.csv and no folders"),
        (f"natix:{tmp_path / 'nowhere'}", "does not exist"),
        ("journal:x", "does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_dataset(uri)
