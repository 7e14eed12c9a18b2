"""Rendered scenes as a dataset: scenes:N or scenes:N:SEED."""

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from roadwork_serve.datasets.base import CorruptItem, DatasetItem
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import MediaKind
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.scenes.scenarios import clip_scene, photo_scene
from roadwork_serve.testbed.scenes.truth import Truth

SEEDS_A_RUN = 1_000_000
CLIP_EVERY = 10
_PREFETCH = 64  # files drawn ahead of use; each is some 0.1 to 1 MB
_READABLE = ("sign_begin", "sign_closure", "sign_detour", "sign_worker", "sign_end")
_MIN_SIGN_HEIGHT = 0.035  # as a fraction of the picture; text on smaller signs is unreadable
_MIN_PARALLEL = 32  # fewer are drawn in this process: starting workers would take longer


@dataclass(frozen=True, slots=True)
class SceneDataset:
    """The first `count` scenes of a run, one in ten a clip. Their labels are known without drawing them."""

    count: int
    seed: int

    @property
    def uri(self) -> str:
        """See `Dataset`."""
        return f"scenes:{self.count}:{self.seed}"

    def items(self) -> list[DatasetItem]:
        """See `Dataset`. Draws nothing."""
        return [_item(seed, kind) for seed, kind in scene_track(self.count, self.seed)]

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        """See `Dataset`."""
        track: list[tuple[int, MediaKind]] = [(int(each.at), each.metadata.kind) for each in wanted]
        if len(track) <= _MIN_PARALLEL:
            yield from (draw_scene(seed, kind) for seed, kind in track)
        else:
            yield from draw_scenes(track, drawing_workers())


def has_readable_text(truth: Truth) -> bool:
    """Return whether the scene shows a sign that is large enough to read and relevant."""
    if truth.needs == "signs":
        return True
    return any(thing.kind in _READABLE and thing.box[3] - thing.box[1] >= _MIN_SIGN_HEIGHT for thing in truth.things)


@cache
def renderer() -> str:
    """Return a short hash of the renderer: its sources and the versions of its libraries."""
    digest = hashlib.sha256(f"pillow {version('pillow')} av {version('av')}".encode())
    for path in sorted(Path(scenes.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _item(seed: int, kind: MediaKind) -> DatasetItem:
    truth = (photo_scene if kind == "photo" else clip_scene)(seed).truth
    metadata = SampleMetadata(
        f"{kind}-{seed}.{'jpg' if kind == 'photo' else 'mp4'}", kind, truth.label,
        seed=seed, needs=truth.needs, activity=truth.activity, tags=truth.tags, source="rendered scenes",
    )  # fmt: skip
    return DatasetItem(metadata, str(seed), f"scene {renderer()} {kind} {seed}", float(has_readable_text(truth)))


def scene_kind(index: int) -> MediaKind:
    """Return the media kind of a scene: a clip when its index ends in 9, else a photo."""
    return "clip" if index % CLIP_EVERY == CLIP_EVERY - 1 else "photo"


def scene_seed(run_seed: int, index: int) -> int:
    """Return run_seed x 1,000,000 + index, so that runs of different seeds share no scene."""
    return run_seed * SEEDS_A_RUN + index


def draw_scene(seed: int, kind: MediaKind) -> Sample:
    """Render the photo (JPEG) or clip (MP4) of a seed, as a client would send it."""
    if kind == "photo":
        photo = scenes.photo(seed)
        truth, data = photo.truth, photo.jpeg()
    else:
        clip = scenes.clip(seed)
        truth, data = clip.truth, clip.mp4()
    name = f"{kind}-{seed}.{'jpg' if kind == 'photo' else 'mp4'}"
    metadata = SampleMetadata(
        name, kind, truth.label, seed=seed, needs=truth.needs, activity=truth.activity, tags=truth.tags
    )
    return Sample(metadata, data, truth)


def drawing_workers() -> int:
    """Return one worker per available core; they run at low priority, ahead of the consumer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def draw_scenes(wanted: Iterable[tuple[int, MediaKind]], workers: int) -> Generator[Sample]:
    """Yield the scenes of these seeds, in order, drawn ahead by `workers` processes of low priority."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=os.nice, initargs=(5,))
    try:
        ahead: deque[Future[Sample]] = deque()
        for seed, kind in wanted:
            ahead.append(pool.submit(draw_scene, seed, kind))
            if len(ahead) >= _PREFETCH:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def scene_track(count: int, run_seed: int) -> list[tuple[int, MediaKind]]:
    """Return seed and media kind of every scene of a run."""
    return [(scene_seed(run_seed, index), scene_kind(index)) for index in range(count)]


def open_scenes(uri: str) -> SceneDataset:
    """Open scenes:N or scenes:N:SEED. Raises ConfigError when the numbers are missing or malformed."""
    rest = uri.partition(":")[2]
    count, _, seed = rest.partition(":")
    if not count.isdecimal() or not int(count) or not (seed or "1").isdecimal():
        raise ConfigError(f"{uri}: write scenes:N:SEED, two numbers, such as scenes:2000:11")
    return SceneDataset(int(count), int(seed or 1))
