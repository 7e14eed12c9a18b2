from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.collect_features import FeatureRequest, collect_features
from roadwork_serve.heads.feature_set import write_features
from roadwork_serve.journal.record import Annotation
from roadwork_serve.journal.store import Store
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from tests.engines.tiny import tiny_dino
from tests.evaluation.fakes import BLUE, RED, write_jpeg
from tests.heads.feature_sets import clouds
from tests.journal.made import audit, entry, report


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\npolicy: mini\nmedia: {thumb_side: 32}\n"
        f"engines: {{dino: {{backend: transformers, model: {tiny_dino(tmp_path / 'tiny')}}}}}\n"
        "stages: {backbone: {engine: dino}}\n"
    )
    return load_profile(str(path))


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """Return the URL of a journal with one entry labelled by people and one by a later stage."""
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    seen = {"features": np.full((1, 24), 0.5, np.float16), "features_model": str(tmp_path / "tiny")}
    with closing(Store.open(url)) as store:
        store.commit([entry("a", 0.9, **seen), entry("b", 0.9, **seen), audit("b", report("vlm", 0.02))])
        store.annotate([("a", Annotation("none", "ann", 1001.0))])
    return url


def test_a_journal_and_files_are_combined(journal: str, profile: Profile, tmp_path: Path) -> None:
    write_jpeg(tmp_path / "data/roadwork/c.jpg", RED)
    write_jpeg(tmp_path / "data/none/d.jpg", BLUE)
    wanted = FeatureRequest(data=[str(tmp_path / "data")], journal=journal, cache=tmp_path / "cache")
    found = collect_features(wanted, profile)
    features = found.features
    assert (features.recipe, features.x.shape) == ("cls", (4, 24))
    assert features.backbone == fingerprint(str(tmp_path / "tiny"))
    targets = dict(zip(features.name, zip(features.target, features.human_labeled, strict=True), strict=True))
    assert targets["a"] == (0.0, True)
    assert targets["b"][0] < 0.5 and not targets["b"][1]
    assert targets["roadwork/c.jpg"] == (1.0, True)


def test_features_of_another_backbone_are_not_combined_with_a_journal(
    journal: str, profile: Profile, tmp_path: Path
) -> None:
    write_features(tmp_path / "f.st", replace(clouds(groups=2, width=24), backbone="e" * 64))
    with pytest.raises(ConfigError, match="same backbone"):
        collect_features(FeatureRequest(journal=journal, files=[tmp_path / "f.st"]), profile)


def test_progress_is_reported_with_its_total(profile: Profile, tmp_path: Path) -> None:
    write_jpeg(tmp_path / "data/roadwork/c.jpg", RED)
    write_jpeg(tmp_path / "data/none/d.jpg", BLUE)
    reported: list[tuple[int, int]] = []
    wanted = FeatureRequest(data=[str(tmp_path / "data")], cache=tmp_path / "cache")
    found = collect_features(wanted, profile, lambda done, total: reported.append((done, total)))
    assert sum(done for done, _ in reported) == 2
    assert {total for _, total in reported} == {2}
    assert found.bundled_head is not None
