import json
from pathlib import Path

import pytest

from roadwork_serve.engines.training_data import TrainingData, training_data
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ModelError


def declare(folder: Path, **entries: object) -> str:
    folder.mkdir()
    (folder / "training.json").write_text(json.dumps(entries))
    return str(folder)


def test_what_several_weights_declare_is_joined_and_other_entries_are_ignored(tmp_path: Path) -> None:
    first = declare(tmp_path / "a", sources=["town/drives"], groups=["clip_a"], minutes=86)
    second = declare(tmp_path / "b", sources=["cones/repo"])
    found = training_data([first, second, str(tmp_path / "none"), "facebook/some-hub-id"])
    assert found.facts() == {"sources": ["cones/repo", "town/drives"], "groups": ["clip_a"]}


def test_an_item_is_covered_by_its_source_or_by_its_group() -> None:
    found = TrainingData(sources=frozenset({"town/drives"}), groups=frozenset({"clip_a"}))
    assert found.covers("town/drives", "clip_b") and found.covers("other", "clip_a")
    assert not found.covers("other", "clip_b") and not found.covers("", "")
    assert not TrainingData().covers("town/drives", "clip_a")


@pytest.mark.parametrize("wrong", ['{"sources": "town"}', "[]", "no JSON"])
def test_a_malformed_file_is_an_error_that_names_it(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "training.json").write_text(wrong)
    with pytest.raises(ModelError, match=r"training\.json: .* is invalid; sources and groups must be lists"):
        training_data([str(tmp_path)])


def test_the_backbone_that_ships_declares_the_photos_that_notice_attributes() -> None:
    notice = " ".join((Path(__file__).parents[2] / "NOTICE").read_text().split())
    declared = training_data([weights_folder("bundled:backbone")])
    assert len(declared.sources) == 3
    assert all(f"repository {source}" in notice for source in declared.sources)
    assert "clip_houston" not in declared.groups
