"""Scenes of the test track as a data set: scenes:N or scenes:N:SEED."""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from roadwork_serve import scenes
from roadwork_serve.learn.listing import Damaged, Listed
from roadwork_serve.learn.samples import About, Sample, draw_scene, draw_scenes, drawing_workers, scene_track
from roadwork_serve.scenes.deck import stage_clip, stage_still
from roadwork_serve.scenes.truth import Truth
from roadwork_serve.schema import MediaKind

_READABLE = ("sign_begin", "sign_closure", "sign_detour", "sign_worker", "sign_end")
_SMALLEST_WORDS = 0.035  # height of a sign's face as a share of the picture below which nobody could read it
_FEW = 32  # drawn here: starting processes would take longer


@dataclass(frozen=True, slots=True)
class Rendered:
    """Scenes 0 to count of a run, one in ten a clip, their truth known before they are drawn."""

    count: int
    seed: int

    @property
    def spec(self) -> str:
        """See `Dataset`."""
        return f"scenes:{self.count}:{self.seed}"

    def listed(self) -> list[Listed]:
        """See `Dataset`. Nothing is drawn for it."""
        return [_listed(seed, kind) for seed, kind in scene_track(self.count, self.seed)]

    def samples(self, wanted: Sequence[Listed]) -> Generator[Sample | Damaged]:
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


def _listed(seed: int, kind: MediaKind) -> Listed:
    truth = (stage_still if kind == "photo" else stage_clip)(seed).truth
    about = About(
        f"{kind}-{seed}.{'jpg' if kind == 'photo' else 'mp4'}", kind, truth.label,
        seed=seed, needs=truth.needs, activity=truth.activity, tags=truth.tags, source="rendered scenes",
    )  # fmt: skip
    return Listed(about, str(seed), f"scene {renderer()} {kind} {seed}", float(words_worth_reading(truth)))
