"""Rows with the predictions of all stages, as `roadwork evaluate --all-stages --rows` writes them, for stills only.

They are cached. The file name identifies the data, the models and the profile, so another count, seed or weight makes
new rows. After a change to the code of stages or scenes, remove the folder.
"""

import asyncio
import hashlib
from collections.abc import Generator
from contextlib import closing
from functools import cache
from pathlib import Path

from benchmarks.server import ROOT
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.datasets.photos import photo_metadata, photo_samples
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.engines.training_data import TrainingData
from roadwork_serve.engines.weights import WEIGHTS as WEIGHTS
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow, read_rows, write_rows
from roadwork_serve.evaluation.run import evaluate_samples
from roadwork_serve.evaluation.seen_data import seen_data
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_kinds import STAGES
from roadwork_serve.progress import progress
from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_track

FOLDER = ROOT / "build/cost_accuracy"


def scene_rows(count: int, seed: int, folder: Path = FOLDER) -> list[EvaluationRow]:
    """Return the rows of the stills of a scene track: nine in ten of its items."""
    stills = [scene for scene in scene_track(count, seed) if scene[1] == "photo"]
    return _cached(folder / f"scenes-{seed}-{count}.jsonl", draw_scenes(stills, drawing_workers()), len(stills))


def photo_rows(photos: Path, folder: Path = FOLDER) -> list[EvaluationRow]:
    """Return the rows of the unambiguous stills of a folder with a manifest.csv."""
    all_metadata = [metadata for metadata in photo_metadata(photos) if metadata.kind == "photo" and not metadata.ignore]
    manifest = hashlib.sha256((photos / "manifest.csv").read_bytes()).hexdigest()[:12]
    return _cached(folder / f"photos-{manifest}.jsonl", photo_samples(photos, all_metadata), len(all_metadata))


def in_training_set(metadata: SampleMetadata) -> bool:
    """Return whether the miniatures were trained on this photograph, as their weights declare."""
    return _declared().covers(metadata.source, metadata.group)


@cache
def _declared() -> TrainingData:
    profile = load_profile("mini")
    return seen_data(profile, load_policy(profile.policy))


def _cached(path: Path, samples: Generator[Sample], total: int) -> list[EvaluationRow]:
    path = path.with_stem(f"{path.stem}-{fingerprint()}")
    with closing(samples):
        if path.is_file():
            return read_rows(path)
        rows = asyncio.run(_evaluate(samples, total, path.name))
    draft = path.with_suffix(".part")  # an interrupted run leaves no file under the final name
    write_rows(draft, rows)
    draft.replace(path)
    return rows


def fingerprint() -> str:
    """Return a hash of the weights, the profile and the policy that produce the rows."""
    profile = load_profile("mini")
    found = hashlib.sha256(profile.model_dump_json().encode())
    found.update(repr(load_policy(profile.policy)).encode())
    for file in sorted(file for file in WEIGHTS.rglob("*") if file.is_file()):
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:12]


async def _evaluate(samples: Generator[Sample], total: int, name: str) -> list[EvaluationRow]:
    profile = load_profile("mini")
    with progress() as bar:
        task = bar.add_task(f"Evaluating {name}", total=total)
        async with local_cascade(profile, load_policy(profile.policy)) as cascade:
            rows, failed = await evaluate_samples(samples, cascade, STAGES, lambda: bar.advance(task))
    if failed:
        raise ConfigError(f"{failed[0].name} got no verdict: {failed[0].message}; fix or remove it")
    return rows
