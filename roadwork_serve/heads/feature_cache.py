"""Features on disk, by what they are of and what they were made with: a changed model never reads old ones."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from roadwork_serve import media
from roadwork_serve.engines.features import PIXEL_MEAN, PIXEL_STD, Recipe
from roadwork_serve.profiles.profile import MediaLimits

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FeatureOrigin:
    """What features depend on besides the file. frames: sampled of a clip. reading: a hash of how files are decoded."""

    model: str
    fingerprint: str
    recipe: Recipe
    dtype: str
    side: int
    frames: int
    reading: str

    @property
    def key(self) -> str:
        """Twenty hex digits of SHA-256; the name the model goes by has no part in it."""
        told = {name: value for name, value in asdict(self).items() if name != "model"}
        return hashlib.sha256(json.dumps([told, PIXEL_MEAN, PIXEL_STD], sort_keys=True).encode()).hexdigest()[:20]


class FeatureCache:
    """Shards in a folder of the maker's own, each written whole or not at all, so that a killed run goes on.

    Several processes may write at once. A shard that cannot be read counts as not there.
    """

    def __init__(self, folder: Path, maker: FeatureOrigin) -> None:
        self.maker, self.folder = maker, folder / maker.key
        self._where: dict[str, tuple[Path, int, int]] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._index(shard)

    def __contains__(self, identity: str) -> bool:
        return identity in self._where

    def __len__(self) -> int:
        return len(self._where)

    def put(self, made: Mapping[str, Features]) -> None:
        """Keep one shard of items, float32 [frames, features] each, by identity."""
        if not made:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "maker.json"
        if not about.exists():
            _whole(about, (json.dumps(asdict(self.maker), indent=2) + "\n").encode())
        names = list(made)
        shard = self.folder / f"{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:20]}.safetensors"
        draft = shard.with_suffix(f".draft-{os.getpid()}")
        told = {"items": json.dumps([[name, len(made[name])] for name in names])}
        save_file({"x": np.ascontiguousarray(np.concatenate(list(made.values())))}, draft, told)
        draft.replace(shard)
        self._index(shard)

    def get(self, identities: Iterable[str]) -> dict[str, Features]:
        """The features of items that are there. Every shard is opened once."""
        wanted: dict[Path, list[str]] = {}
        for identity in identities:
            wanted.setdefault(self._where[identity][0], []).append(identity)
        found: dict[str, Features] = {}
        for shard, names in wanted.items():
            with safe_open(shard, "np") as file:
                x = file.get_tensor("x")
            for name in names:
                _, start, end = self._where[name]
                found[name] = x[start:end].copy()
        return found

    def _index(self, shard: Path) -> None:
        try:
            with safe_open(shard, "np") as file:
                items = json.loads(file.metadata()["items"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return
        start = 0
        for name, count in items:
            self._where[name] = shard, start, start + count
            start += count


def identity_of(data: bytes) -> str:
    """SHA-256 of the encoded file, hex."""
    return hashlib.sha256(data).hexdigest()


def origin_of(model: str, fingerprint: str, recipe: Recipe, dtype: str, limits: MediaLimits) -> FeatureOrigin:
    """What makes the features that a backbone has of files read under these limits."""
    reading = f"{_sources()} {limits.frame_side}"
    return FeatureOrigin(model, fingerprint, recipe, dtype, limits.thumb_side, limits.frames, reading)


@cache
def _sources() -> str:
    """A hash of the code that turns files into thumbs, and of the libraries that it decodes with."""
    told = hashlib.sha256(f"pillow {version('pillow')} av {version('av')}".encode())
    for path in sorted(Path(media.__file__).parent.glob("*.py")):
        told.update(path.read_bytes())
    return told.hexdigest()[:20]


def _whole(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(path)
