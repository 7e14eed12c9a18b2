import math
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve import media
from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.heads.extract import Extractor, extractor
from roadwork_serve.heads.feature_cache import FeatureCache
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import untrained
from tests.engines.tiny import tiny_dino
from tests.evaluation.fakes import BLUE, GREY, PINK, RED, jpeg, mp4, write_jpeg

LIMITS = MediaLimits(thumb_side=32, frames=4)


@pytest.fixture
def engine(tmp_path: Path) -> FeatureEngine:
    return FeatureEngine(tiny_dino(tmp_path / "tiny"), side=32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, colour in {"roadwork/a.jpg": RED, "roadwork/trip/b.jpg": PINK, "none/c.jpg": BLUE}.items():
        write_jpeg(folder / name, colour)
    (folder / "none/d.mp4").write_bytes(mp4(GREY))
    return folder


class Counting:
    """An engine that counts its thumbnails, and fails after a given number."""

    def __init__(self, engine: FeatureEngine, until: float = math.inf) -> None:
        self._engine, self.until, self.shown = engine, until, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def features(self, thumbs: np.ndarray, recipe: str) -> object:
        if self.shown >= self.until:
            raise KeyboardInterrupt
        self.shown += len(thumbs)
        return self._engine.features(thumbs, recipe)  # type: ignore[arg-type]


def test_a_head_is_trained_on_the_features_of_serving(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    found = Extractor(engine, LIMITS, "cls+mean+max", tmp_path / "cache").extract([open_dataset(str(data))]).features
    served = [media.read((data / name).read_bytes(), LIMITS).thumbs for name in dict.fromkeys(found.name)]
    assert np.array_equal(found.x, np.concatenate([engine.extract(thumbs).numpy() for thumbs in served]))
    assert found.name == ("roadwork/a.jpg", "roadwork/trip/b.jpg", "none/c.jpg", *["none/d.mp4"] * 4)
    assert found.target.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert found.weight.tolist() == [1, 1, 1, 0.25, 0.25, 0.25, 0.25]
    assert found.group == ("", "trip", "", "", "", "", "")
    assert found.human_labeled.all() and np.isnan(found.has_text).all()
    assert found.backbone == engine.fingerprint


def test_features_are_computed_once(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    counting = Counting(engine)
    for kept in (0, 4):
        extracted = Extractor(counting, LIMITS, "cls", tmp_path / "cache").extract([open_dataset(str(data))])  # type: ignore[arg-type]
        assert extracted.cached == kept
    assert counting.shown == 7
    again = Extractor(engine, LIMITS, "cls", tmp_path / "cache").extract([open_dataset(str(data))]).features
    assert np.array_equal(again.x, extracted.features.x)


def test_a_killed_run_resumes(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(data))
    broken = Counting(engine, until=2)
    with pytest.raises(KeyboardInterrupt):
        Extractor(broken, LIMITS, "cls", tmp_path / "cache").extract([dataset])  # type: ignore[arg-type]
    rest = Counting(engine)
    Extractor(rest, LIMITS, "cls", tmp_path / "cache").extract([dataset])  # type: ignore[arg-type]
    assert (broken.shown, rest.shown) == (2, 5)


def test_a_truncated_shard_counts_as_missing(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(data))
    maker = Extractor(engine, LIMITS, "cls", tmp_path / "cache")
    whole = maker.extract([dataset]).features
    (shard,) = maker.cache.folder.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:40])
    counting = Counting(engine)
    again = Extractor(counting, LIMITS, "cls", tmp_path / "cache").extract([dataset]).features  # type: ignore[arg-type]
    assert counting.shown == 7
    assert np.array_equal(again.x, whole.x)


def test_a_changed_input_invalidates_the_cache(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    cache, dataset = tmp_path / "cache", open_dataset(str(data))
    Extractor(engine, LIMITS, "cls", cache).extract([dataset])
    other = FeatureEngine(str(untrained.backbone()))
    changed = [
        Extractor(engine, LIMITS, "cls+mean", cache),
        Extractor(engine, LIMITS.model_copy(update={"thumb_side": 48}), "cls", cache),
        Extractor(engine, LIMITS.model_copy(update={"frames": 2}), "cls", cache),
        Extractor(other, LIMITS, "cls", cache),
    ]
    keys = {each.cache.origin.key for each in changed} | {Extractor(engine, LIMITS, "cls", cache).cache.origin.key}
    assert len(keys) == 5
    assert [len(each.cache) for each in changed] == [0] * 4


def test_the_name_of_a_model_does_not_affect_the_cache(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    Extractor(engine, LIMITS, "cls", tmp_path / "cache", model="one").extract([open_dataset(str(data))])
    assert len(Extractor(engine, LIMITS, "cls", tmp_path / "cache", model="two").cache) == 4


def test_damaged_files_are_named_up_to_a_limit(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    (data / "none/e.jpg").write_bytes(jpeg(BLUE)[:200])
    (data / "none/notes.txt").write_text("not a photo")
    maker = Extractor(engine, LIMITS, "cls", tmp_path / "cache")
    extracted = maker.extract([open_dataset(str(data))], max_skipped=2)
    assert [each.name for each in extracted.skipped] == ["none/e.jpg", "none/notes.txt"]
    assert "truncated" in extracted.skipped[0].reason
    assert len(set(extracted.features.name)) == 4
    with pytest.raises(ConfigError, match=r"more than 1 files cannot be used, among them none/e\.jpg.*--max-skipped"):
        maker.extract([open_dataset(str(data))], max_skipped=1)


def test_a_duplicate_file_counts_once(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    maker = Extractor(engine, LIMITS, "cls", tmp_path / "cache")
    (data / "roadwork/again.jpg").write_bytes((data / "roadwork/a.jpg").read_bytes())
    assert len(set(maker.extract([open_dataset(str(data))] * 2).features.name)) == 4
    (data / "none/again.jpg").write_bytes((data / "roadwork/a.jpg").read_bytes())
    with pytest.raises(ConfigError, match="are the same file, one labelled road work and one none"):
        maker.extract([open_dataset(str(data))])


def test_unclear_labels_are_not_trained_on(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    (data / "list.csv").write_text("file,label\nroadwork/a.jpg,unclear\nnone/c.jpg,none\n")
    maker = Extractor(engine, LIMITS, "cls", tmp_path / "cache")
    extracted = maker.extract([open_dataset(str(data / "list.csv"))])
    assert (extracted.unclear, extracted.features.name) == (1, ("none/c.jpg",))
    (data / "list.csv").write_text("file,label\nroadwork/a.jpg,unclear\n")
    with pytest.raises(ConfigError, match="none of the data can be used"):
        maker.extract([open_dataset(str(data / "list.csv"))])


def test_cached_scenes_are_not_rendered_again(engine: FeatureEngine, tmp_path: Path, monkeypatch) -> None:
    maker = Extractor(engine, LIMITS, "cls", tmp_path / "cache")
    first = maker.extract([open_dataset("scenes:3:5")])
    monkeypatch.setattr("roadwork_serve.testbed.scene_dataset.draw_scene", None)
    again = Extractor(engine, LIMITS, "cls", tmp_path / "cache").extract([open_dataset("scenes:3:5")])
    assert (again.cached, again.features.digest) == (3, first.features.digest)
    assert not np.isnan(again.features.has_text).any()


def test_progress_reaches_the_end(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    (data / "none/e.jpg").write_bytes(b"")
    for _ in range(2):
        done: list[int] = []
        Extractor(engine, LIMITS, "cls", tmp_path / "cache").extract([open_dataset(str(data))], on_done=done.append)
        assert sum(done) == 5


def test_weights_without_a_fingerprint_are_rejected(engine: FeatureEngine, tmp_path: Path) -> None:
    engine.fingerprint = ""
    with pytest.raises(ModelError, match="no safetensors"):
        Extractor(engine, LIMITS, "cls", tmp_path / "cache")


def test_the_backbone_comes_from_the_profile(tmp_path: Path) -> None:
    profile = load_profile("mini")
    maker = extractor(profile, "cls", cache=tmp_path)
    assert (maker.model, maker.limits, maker.engine.side) == ("bundled:backbone", profile.media, 224)
    assert maker.engine.head is not None
    other = extractor(profile, "cls", str(untrained.backbone(head=False)), tmp_path)
    assert other.engine.fingerprint != maker.engine.fingerprint
    file = {"backend": "onnx", "model": "build/backbone.onnx"}
    exported = profile.model_copy(update={"engines": {"dinov3": profile.engines["dinov3"].model_copy(update=file)}})
    with pytest.raises(ConfigError, match="returns no features: name the backbone it was exported from"):
        extractor(exported, "cls", cache=tmp_path)


def test_several_processes_may_write_to_one_cache(engine: FeatureEngine, tmp_path: Path) -> None:
    maker = Extractor(engine, LIMITS, "cls", tmp_path).cache.origin
    one, two = FeatureCache(tmp_path, maker), FeatureCache(tmp_path, maker)
    one.put({"a": np.ones((1, 24), np.float32)})
    two.put({"b": np.zeros((2, 24), np.float32), "a": np.ones((1, 24), np.float32)})
    together = FeatureCache(tmp_path, maker)
    assert {name: x.shape for name, x in together.get(["a", "b"]).items()} == {"a": (1, 24), "b": (2, 24)}
    assert not list(together.folder.glob("*draft*"))


def test_if_nothing_can_be_used_the_first_reasons_are_told(engine: FeatureEngine, data: Path, tmp_path: Path) -> None:
    lines = "".join(f"a\\{at}.jpg,none\n" for at in range(7))
    (data / "list.csv").write_text(f"file,label\n{lines}roadwork/a.jpg,unclear\n")
    maker = Extractor(engine, LIMITS, "cls", tmp_path / "cache")
    with pytest.raises(ConfigError) as failure:
        maker.extract([open_dataset(str(data / "list.csv"))])
    text = str(failure.value)
    assert "1 have no clear label, and 7 cannot be read" in text
    assert [f"{data}/a/{at}.jpg" in text for at in range(7)] == [True] * 5 + [False] * 2
