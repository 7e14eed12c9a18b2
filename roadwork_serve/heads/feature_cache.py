"""A cache of features on disk, keyed by file, model and preprocessing, so that a change never reads old features."""

import hashlib
import json
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
from roadwork_serve.atomic_write import replace_file, write_json
from roadwork_serve.engines.backbones import Rgb
from roadwork_serve.engines.features import FeatureEngine, Recipe
from roadwork_serve.profiles.media_limits import MediaLimits

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FeatureOrigin:
    """Everything that features depend on besides the file."""

    model: str
    fingerprint: str
    recipe: Recipe
    dtype: str
    #: Side of the thumbnail, pixels.
    side: int
    #: Number of frames sampled from a clip.
    frames: int
    #: Hash of the decoding code and its settings.
    reading: str
    #: Mean and standard deviation of pixels in 0..1 that the backbone's normalization uses.
    mean: Rgb
    std: Rgb

    @property
    def key(self) -> str:
        """Twenty hex digits of SHA-256 over all fields but the model name."""
        digest = {name: value for name, value in asdict(self).items() if name != "model"}
        return hashlib.sha256(json.dumps(digest, sort_keys=True).encode()).hexdigest()[:20]


class FeatureCache:
    """Shards in a folder for each origin, written atomically, so that a killed run can be resumed.

    Several processes may write at once. A shard that cannot be read is ignored.
    """

    def __init__(self, folder: Path, origin: FeatureOrigin) -> None:
        self.origin, self.folder = origin, folder / origin.key
        self._locations: dict[str, tuple[Path, int, int]] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._index(shard)

    def __contains__(self, identity: str) -> bool:
        return identity in self._locations

    def __len__(self) -> int:
        return len(self._locations)

    def put(self, features: Mapping[str, Features]) -> None:
        """Store items as one shard: float32 [frames, features] by identity."""
        if not features:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        description = self.folder / "origin.json"
        if not description.exists():
            write_json(description, asdict(self.origin))
        names = list(features)
        shard = self.folder / f"{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:20]}.safetensors"
        index = {"items": json.dumps([[name, len(features[name])] for name in names])}
        with replace_file(shard) as draft:
            save_file({"x": np.ascontiguousarray(np.concatenate(list(features.values())))}, draft, index)
        self._index(shard)

    def get(self, identities: Iterable[str]) -> dict[str, Features]:
        """Return the features of cached items. Every shard is opened once."""
        wanted: dict[Path, list[str]] = {}
        for identity in identities:
            wanted.setdefault(self._locations[identity][0], []).append(identity)
        found: dict[str, Features] = {}
        for shard, names in wanted.items():
            with safe_open(shard, "np") as file:
                x = file.get_tensor("x")
            for name in names:
                _, start, end = self._locations[name]
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
            self._locations[name] = shard, start, start + count
            start += count


def identity_of(data: bytes) -> str:
    """Return the SHA-256 of the encoded file, hex."""
    return hashlib.sha256(data).hexdigest()


def origin_of(model: str, engine: FeatureEngine, recipe: Recipe, limits: MediaLimits) -> FeatureOrigin:
    """Return the origin of features of an engine's backbone under these media limits."""
    backbone, reading = engine.backbone, f"{_sources()} {limits.frame_side}"
    dtype = str(backbone.dtype).removeprefix("torch.")
    return FeatureOrigin(
        model, engine.fingerprint, recipe, dtype, limits.thumb_side, limits.frames, reading, backbone.mean, backbone.std
    )


@cache
def _sources() -> str:
    """Return a hash of the preprocessing code and of the versions of its decoding libraries."""
    digest = hashlib.sha256(f"pillow {version('pillow')} av {version('av')}".encode())
    for path in sorted(Path(media.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]
