"""Scenes of the test track as a data set: scenes:N or scenes:N:SEED."""

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
from roadwork_serve.testbed.scenes.deck import stage_clip, stage_still
from roadwork_serve.testbed.scenes.truth import Truth

SEEDS_A_RUN = 1_000_000
CLIP_EVERY = 10
_LOOK_AHEAD = 64  # files drawn and not yet judged; a file is some 0.1 to 1 MB
_READABLE = ("sign_begin", "sign_closure", "sign_detour", "sign_worker", "sign_end")
_SMALLEST_WORDS = 0.035  # height of a sign's face as a share of the picture below which nobody could read it
_FEW = 32  # drawn here: starting processes would take longer


@dataclass(frozen=True, slots=True)
class SceneDataset:
    """Scenes 0 to count of a run, one in ten a clip, their truth known before they are drawn."""

    count: int
    seed: int

    @property
    def spec(self) -> str:
        """See `Dataset`."""
        return f"scenes:{self.count}:{self.seed}"

    def listed(self) -> list[DatasetItem]:
        """See `Dataset`. Nothing is drawn for it."""
        return [_listed(seed, kind) for seed, kind in scene_track(self.count, self.seed)]

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        """See `Dataset`."""
        track: list[tuple[int, MediaKind]] = [(int(each.at), each.about.kind) for each in wanted]
        if len(track) <= _FEW:
            yield from (draw_scene(seed, kind) for seed, kind in track)
        else:
            yield from draw_scenes(track, drawing_workers())


def words_worth_reading(truth: Truth) -> bool:
    """Whether reading the signs could change what is known of the scene."""
    if truth.needs == "signs":
        return True
    return any(thing.kind in _READABLE and thing.box[3] - thing.box[1] >= _SMALLEST_WORDS for thing in truth.things)


@cache
def renderer() -> str:
    """A short hash of the sources that draw the scenes, and of the libraries that they draw with."""
    told = hashlib.sha256(f"pillow {version('pillow')} av {version('av')}".encode())
    for path in sorted(Path(scenes.__file__).parent.glob("*.py")):
        told.update(path.read_bytes())
    return told.hexdigest()[:16]


def _listed(seed: int, kind: MediaKind) -> DatasetItem:
    truth = (stage_still if kind == "photo" else stage_clip)(seed).truth
    about = SampleMetadata(
        f"{kind}-{seed}.{'jpg' if kind == 'photo' else 'mp4'}", kind, truth.label,
        seed=seed, needs=truth.needs, activity=truth.activity, tags=truth.tags, source="rendered scenes",
    )  # fmt: skip
    return DatasetItem(about, str(seed), f"scene {renderer()} {kind} {seed}", float(words_worth_reading(truth)))


def scene_kind(index: int) -> MediaKind:
    """One scene in ten is a clip: those whose index in the run ends in 9."""
    return "clip" if index % CLIP_EVERY == CLIP_EVERY - 1 else "photo"


def scene_seed(run_seed: int, index: int) -> int:
    """The seed of a run's scene: run_seed x 1,000,000 + index, so that runs of different seeds share no scene."""
    return run_seed * SEEDS_A_RUN + index


def draw_scene(seed: int, kind: MediaKind) -> Sample:
    """The rendered photo (JPEG) or clip (MP4) of a seed, as a client would send it."""
    if kind == "photo":
        photo = scenes.photo(seed)
        truth, data = photo.truth, photo.jpeg()
    else:
        clip = scenes.clip(seed)
        truth, data = clip.truth, clip.mp4()
    name = f"{kind}-{seed}.{'jpg' if kind == 'photo' else 'mp4'}"
    about = SampleMetadata(
        name, kind, truth.label, seed=seed, needs=truth.needs, activity=truth.activity, tags=truth.tags
    )
    return Sample(about, data, truth)


def drawing_workers() -> int:
    """One a core this process may use: drawing yields to judging, which it is ahead of."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def draw_scenes(wanted: Iterable[tuple[int, MediaKind]], workers: int) -> Generator[Sample]:
    """The scenes of these seeds, in order, drawn ahead by `workers` processes of low priority."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=os.nice, initargs=(5,))
    try:
        ahead: deque[Future[Sample]] = deque()
        for seed, kind in wanted:
            ahead.append(pool.submit(draw_scene, seed, kind))
            if len(ahead) >= _LOOK_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def scene_track(count: int, run_seed: int) -> list[tuple[int, MediaKind]]:
    """Seed and kind of every scene of a run."""
    return [(scene_seed(run_seed, index), scene_kind(index)) for index in range(count)]


def open_scenes(spec: str) -> SceneDataset:
    """Open scenes:N or scenes:N:SEED. Raises ConfigError when the numbers are missing or malformed."""
    rest = spec.partition(":")[2]
    count, _, seed = rest.partition(":")
    if not count.isdecimal() or not int(count) or not (seed or "1").isdecimal():
        raise ConfigError(f"{spec}: write scenes:N:SEED, two numbers, such as scenes:2000:11")
    return SceneDataset(int(count), int(seed or 1))
