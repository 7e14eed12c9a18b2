from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.feature_set import concatenate, drop_teacher_duplicates, read_features, write_features
from tests.heads.feature_sets import clouds


def test_a_feature_set_round_trips_through_a_file(tmp_path: Path) -> None:
    features = clouds(groups=4)
    write_features(tmp_path / "f.safetensors", features)
    again = read_features(tmp_path / "f.safetensors")
    assert again.digest == features.digest
    assert (again.metadata, again.origin, again.backbone) == (features.metadata, features.origin, features.backbone)


def test_an_invalid_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "f.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"holds no features.*--save-features"):
        read_features(tmp_path / "f.safetensors")


def test_joined_sets_keep_the_shortest_recipe() -> None:
    short = clouds(groups=2, width=4)
    long = replace(clouds(groups=3, width=12), recipe="cls+mean+max")
    both = concatenate([long, short])
    assert (both.recipe, both.x.shape, both.width) == ("cls", (30, 4), 4)
    assert np.array_equal(both.x[:18], long.x[:, :4])


def test_sets_of_different_backbones_are_not_joined() -> None:
    with pytest.raises(ConfigError, match="same backbone"):
        concatenate([clouds(groups=2), replace(clouds(groups=2), backbone="e" * 64)])
    with pytest.raises(ConfigError, match="there is no training data"):
        concatenate([])


def test_a_missing_recipe_is_rejected() -> None:
    with pytest.raises(ConfigError, match="these features have recipe cls"):
        clouds(groups=2).narrowed("cls+mean")


def test_a_human_label_overrides_a_pseudo_label_of_the_same_item() -> None:
    people = clouds(groups=2, each=2)
    teacher = replace(people, human_labeled=np.zeros(4, bool), target=1 - people.target).rows(np.array([0, 1]))
    alone = replace(teacher, name=("other-0", "other-1"))
    kept = drop_teacher_duplicates(concatenate([teacher, people, alone]))
    assert kept.name == (*people.name, "other-0", "other-1")
    assert np.array_equal(kept.target[:4], people.target)


def test_frames_of_a_clip_form_a_group_where_none_is_known() -> None:
    frames = replace(clouds(groups=1, each=3), group=("", "", ""), name=("a.mp4", "a.mp4", "b.jpg"))
    assert frames.together[0] == frames.together[1] != frames.together[2]


def test_the_digest_changes_with_every_training_input() -> None:
    features = clouds(groups=2)
    others = [
        replace(features, target=1 - features.target),
        replace(features, weight=features.weight * 2),
        replace(features, x=features.x + 1),
        replace(features, group=("",) * 12),
        replace(features, backbone=""),
    ]
    assert len({each.digest for each in (features, *others)}) == 6
