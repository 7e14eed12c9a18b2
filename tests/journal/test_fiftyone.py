import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.fiftyone import push, write_dataset
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.testbed import scenes
from tests.journal.made import entry, report

PICTURES = [scenes.photo(number, 0.1).jpeg() for number in range(3)]
CLIP = scenes.clip(1, 0.1, 4).mp4()
INSTALLED = importlib.util.find_spec("fiftyone") is not None


@pytest.fixture
def cases() -> list[JournalRow]:
    both = (report("backbone", 0.3, posterior=0.2), report("vlm", None), report("signs", 0.8))
    close = {"stages": both, "arm": "a", "degraded": True}
    cone = Annotation("none", "ann", 1.0, "a cone")
    return [
        JournalRow(entry("close", 0.45, media=PICTURES[0], verdict=close), media_available=True),
        JournalRow(entry("marked", 1.0, media=PICTURES[1]), audit=(report("vlm", 0.6),), annotation=cone),
        JournalRow(entry("unclear", 0.9, media=PICTURES[2], created_at_s=1.5), annotation=Annotation(None, "bob", 1.0)),
        JournalRow(entry("clip", 0.9, media=CLIP, verdict={"media": "clip"})),
        JournalRow(entry("again", 0.9, media=PICTURES[0])),
        JournalRow(entry("gone", 0.5)),
    ]


@pytest.fixture
def media_of() -> Callable[[JournalRow], bytes | None]:
    return lambda case: case.prediction.media


def read(folder: Path) -> tuple[dict, list[dict]]:
    metadata = json.loads((folder / "metadata.json").read_text())
    return metadata, json.loads((folder / "samples.json").read_text())["samples"]


def test_each_prediction_with_its_file_becomes_a_sample(cases: list, media_of: Callable, tmp_path: Path) -> None:
    written = write_dataset(tmp_path / "out", cases, media_of, "road")
    assert (written.photos, written.clips, written.without_file) == (4, 1, 1)
    metadata, samples = read(tmp_path / "out" / "photos")
    close, marked, unclear, again = samples
    assert (metadata["name"], metadata["media_type"]) == ("road", "image")
    assert close["backbone"] | {"_id": None} == {
        "_id": None, "_cls": "Classification", "tags": [], "label": "none", "confidence": 0.7, "probability": 0.3,
        "posterior": 0.2, "model": "fake", "deferred": False,
    }  # fmt: skip
    assert close["signs"]["label"] == "roadwork" and "vlm" not in close
    assert (close["verdict"]["label"], close["verdict"]["confidence"]) == ("none", 0.55)
    assert close["tags"] == ["backbone", "degraded", "informative", "arm a"]
    assert marked["tags"] == ["backbone", "informative", "audited", "labeled"]
    assert (marked["vlm"]["deferred"], marked["vlm"]["confidence"]) == (True, 0.6)
    assert (marked["ground_truth"]["label"], marked["author"], marked["note"]) == ("none", "ann", "a cone")
    assert marked["reasons"][0] == "mislabeled" and marked["informativeness"] >= 0.9
    assert unclear["ground_truth"] is None and unclear["predicted_at"] == {"$date": "1970-01-01T00:00:01.500Z"}
    assert again["filepath"] == close["filepath"]
    assert (close["request_id"], close["policy_version"]) == ("request-close", "made-1")


def test_clips_are_a_separate_dataset(cases: list, media_of: Callable, tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", cases, media_of, "road")
    metadata, (clip,) = read(tmp_path / "out" / "clips")
    assert (metadata["name"], metadata["media_type"], clip["_media_type"]) == ("road-clips", "video", "video")
    assert (tmp_path / "out" / "clips" / clip["filepath"]).read_bytes() == CLIP


def test_the_layout_matches_fiftyones_importer(cases: list, media_of: Callable, tmp_path: Path) -> None:
    """Check metadata.json for a version and typed fields, and samples.json for one list of samples.

    Files have relative paths, every id is an ObjectId of its own, and every value belongs to a declared field.
    """
    write_dataset(tmp_path / "out", cases, media_of, "road")
    for folder in (tmp_path / "out" / "photos", tmp_path / "out" / "clips"):
        metadata, samples = read(folder)
        fields = {field["db_field"]: field for field in metadata["sample_fields"]}
        assert metadata["version"] and all(f["ftype"].startswith("fiftyone.core.fields.") for f in fields.values())
        ids = [sample["_id"]["$oid"] for sample in samples]
        assert len(set(ids)) == len(ids) and all(len(bytes.fromhex(each)) == 12 for each in ids)
        for sample in samples:
            assert sample.keys() <= fields.keys()
            assert (folder / sample["filepath"]).is_file() and not os.path.isabs(sample["filepath"])
            for name, value in sample.items():
                if isinstance(value, dict) and "_cls" in value:
                    inside = {each["db_field"] for each in fields[name]["fields"]}
                    assert fields[name]["embedded_doc_type"] == "fiftyone.core.labels.Classification"
                    assert value.keys() - {"_cls"} <= inside


def test_a_failed_export_leaves_no_dataset(cases: list, tmp_path: Path) -> None:
    def fails(case: JournalRow) -> bytes:
        if case.prediction.id == "clip":
            raise OSError("the disk is gone")
        return PICTURES[0]

    with pytest.raises(OSError, match="the disk is gone"):
        write_dataset(tmp_path / "out", cases, fails, "road")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        write_dataset(tmp_path / "out", cases, lambda case: None, "road")


def test_a_folder_without_a_dataset_is_not_pushed(media_of: Callable, tmp_path: Path) -> None:
    written = write_dataset(tmp_path / "out", [], media_of, "road")
    assert (written.photos, written.clips) == (0, 0)
    with pytest.raises(ConfigError, match="contains no dataset"):
        push(tmp_path / "out")


@pytest.mark.skipif(INSTALLED, reason="fiftyone is installed here, so it is not missed")
def test_push_without_fiftyone_is_an_error_that_names_the_package(
    cases: list, media_of: Callable, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "out", cases, media_of, "road")
    with pytest.raises(ConfigError, match="pip install fiftyone"):
        push(tmp_path / "out")


def test_novelty_is_included_if_there_is_a_reference(media_of: Callable, tmp_path: Path) -> None:
    from roadwork_serve.journal.novelty import build_reference

    rng = np.random.default_rng(1)
    usual = [JournalRow(entry(f"{n}", features=rng.normal(0, 1, (1, 8)).astype(np.float16))) for n in range(100)]
    new = JournalRow(entry("new", 1.0, media=PICTURES[0], features=np.full((1, 8), 9, np.float16)))
    write_dataset(tmp_path / "out", [new], media_of, "road", build_reference(usual))
    _, (sample,) = read(tmp_path / "out" / "photos")
    assert (sample["novelty"], sample["reasons"]) == (1.0, ["novelty"])


@pytest.mark.skipif(
    not INSTALLED or not os.environ.get("FIFTYONE_DATABASE_URI"),
    reason="needs fiftyone installed and its MongoDB in FIFTYONE_DATABASE_URI",
)
def test_fiftyone_imports_it(cases: list, media_of: Callable, tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", cases, media_of, f"road-{os.getpid()}")
    done = subprocess.run(  # in a separate process because of its threads and warnings
        [sys.executable, "-c", _IMPORT, str(tmp_path / "out"), f"road-{os.getpid()}"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "pushed": {f"road-{os.getpid()}": 4, f"road-{os.getpid()}-clips": 1},
        "most_informative": "marked",
        "tags": {"backbone": 4, "arm a": 1, "degraded": 1, "informative": 2, "audited": 1, "labeled": 2},
        "truths": [None, "none", None, None],
        "read": 4,
        "again": "FiftyOne already has a",
    }


_IMPORT = """
import json, os, sys
from pathlib import Path
import fiftyone
from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.fiftyone import push
folder, name = Path(sys.argv[1]), sys.argv[2]
found = {"pushed": push(folder)}
dataset = fiftyone.load_dataset(name)
found["most_informative"] = dataset.sort_by("informativeness", reverse=True).first().prediction_id
found["tags"] = dataset.count_sample_tags()
found["truths"] = dataset.values("ground_truth.label")
found["read"] = sum(os.path.getsize(path) > 0 for path in dataset.values("filepath"))
try:
    push(folder)
except ConfigError as error:
    found["again"] = str(error)[:22]
for each in found["pushed"]:
    fiftyone.delete_dataset(each)
print(json.dumps(found))
"""
