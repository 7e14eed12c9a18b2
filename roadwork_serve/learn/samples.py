"""Labelled photos and clips to be judged: what is known of each, and those of the test track."""

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from roadwork_serve import scenes
from roadwork_serve.scenes.truth import Truth
from roadwork_serve.schema import MediaKind

SEEDS_A_RUN = 1_000_000
CLIP_EVERY = 10
_LOOK_AHEAD = 64  # files drawn and not yet judged; a file is some 0.1 to 1 MB


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a labelled file beforehand.

    label: active road work. scored: False where people could not tell; judged, but left out of every number.
    seed, needs, activity, tags: of a rendered scene, see `scenes.truth.Truth`.
    group: files that must never be parted, such as the frames of one drive.
    hard_negative: looks like road work and is none.
    taught: nobody has looked: the label is what all stages together said.
    """

    name: str
    kind: MediaKind
    label: bool
    scored: bool = True
    seed: int | None = None
    needs: str | None = None
    activity: str | None = None
    tags: tuple[str, ...] = ()
    group: str = ""
    source: str = ""
    licence: str = ""
    hard_negative: bool = False
    taught: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled file, its encoded bytes, and of a rendered scene everything that is true of it."""

    about: About
    data: bytes
    truth: Truth | None = None


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
    about = About(name, kind, truth.label, seed=seed, needs=truth.needs, activity=truth.activity, tags=truth.tags)
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
