"""Selection of the photos that are scored, and the result file, which keeps earlier runs."""

import json
from pathlib import Path

import pytest

from benchmarks import real_photos
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.training_data import TrainingData
from roadwork_serve.errors import ConfigError
from tests.evaluation.fakes import BLUE, RED, judge_by_colour, write_jpeg, write_policy

PHOTOS = """file,label,source_repo,path,licence,notes
a.jpg,roadwork,town,a,MIT,
b.jpg,none,cones,b,MIT,hard negative: cones
c.jpg,none,town,c,MIT,AMBIGUOUS
d.jpg,none,Mi3-Lab/workzone,d,ODC-By-1.0,
"""
OPEN = """file,label,source_repo,path,licence,licence_source,group,notes
a.jpg,roadwork,own,a,MIT,,one,tier=A
b.jpg,none,web,b,CC BY 4.0,,two,tier=B
c.jpg,roadwork,web,c,CC BY 4.0,,two,tier=B
d.jpg,objects,web,d,CC BY 4.0,,two,tier=B
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, manifest in (("photos", PHOTOS), ("opendata", OPEN)):
        for file, colour in (("a", RED), ("b", BLUE), ("c", RED), ("d", RED)):
            write_jpeg(tmp_path / name / f"{file}.jpg", colour)
        (tmp_path / name / "manifest.csv").write_text(manifest)
    return tmp_path


def names(found: real_photos.PhotoSet) -> list[str]:
    return [each.name for each in found.photos]


def test_only_labelled_photos_of_the_tier_and_of_other_sources_are_scored(data: Path) -> None:
    assert names(real_photos.photo_set("photos", data / "photos")) == ["a.jpg", "b.jpg", "d.jpg"]
    assert names(real_photos.photo_set("photos", data / "photos", excluded=frozenset({"town"}))) == ["b.jpg", "d.jpg"]
    assert names(real_photos.photo_set("open", data / "opendata", tier="B")) == ["b.jpg", "c.jpg"]
    drawn = real_photos.photo_set("open", data / "opendata", sample=2)
    assert (len(drawn.photos), drawn.drawn_from) == (2, 3)
    assert names(drawn) == names(real_photos.photo_set("open", data / "opendata", sample=2))


def test_a_missing_folder_and_nothing_to_score_are_errors(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere does not exist; .*--data"):
        real_photos.photo_set("photos", data / "nowhere")
    with pytest.raises(ConfigError, match="no photos left to score"):
        real_photos.photo_set("photos", data / "photos", tier="B")


def test_each_photo_goes_to_the_first_fold_that_was_not_trained_on_it() -> None:
    photos = [SampleMetadata(name, "photo", True, source=name) for name in ("a", "b", "c", "both")]
    folds = [TrainingData(sources=frozenset(names)) for names in ({"a", "both"}, {"b", "both"})]
    assert real_photos.assign(photos, folds) == [1, 0, 0, None]


def test_a_run_is_added_to_those_with_other_labels(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_by_colour(monkeypatch)
    out, policy = tmp_path / "out.json", write_policy(tmp_path / "policy.yaml")
    for label in ("before", "after"):
        assert real_photos.main(["--label", label, "--data", str(data), "--policy", policy, "--out", str(out)]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert list(runs) == ["before", "after"]
    photos, opened = runs["after"]["sets"]
    assert photos["photos"]["cascade"]["overall"]["accuracy"] == 1
    assert list(photos["seen_in_training"]["cascade"]["by_source"]) == ["Mi3-Lab/workzone"]
    assert (opened["name"], opened["photos"]["stage1"]["overall"]["n"]) == ("opendata, tier B", 2)
    assert len(runs["after"]["stage1"]["bundled:efficientnet-lite2"]) == 64
    assert "--label after" in runs["after"]["environment"]["command"]
    assert real_photos.main(["--data", str(data / "nowhere"), "--out", str(out)]) == 2
    assert "does not exist" in capsys.readouterr().err
