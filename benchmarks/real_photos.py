"""`python -m benchmarks.real_photos`: stage 1 and the cascade on real photographs, by source.

Two sets are scored, neither part of the project: `photos` and `opendata` in the folder --data. Photos of sources and
groups that the weights of a profile declare in training.json are reported apart. With several profiles, such as one
for each fold of sources, each photo is classified by the first profile that was not trained on it. The result file
keeps the runs with other labels.
"""

import argparse
import asyncio
import json
import random
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import Environment
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.datasets.photos import photo_metadata, photo_samples
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.training_data import TrainingData
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.evaluation.by_source import CAVEAT, StageComparison, stage_comparison
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.run import evaluate_samples
from roadwork_serve.evaluation.seen_data import seen_data
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.progress import progress

OUT = RESULTS / "real-photos.json"
DATA = Path("../shared/data")
SEED = 7


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photos to score."""

    name: str
    folder: Path
    photos: tuple[SampleMetadata, ...]
    #: Number of photos that `photos` was drawn from.
    drawn_from: int


@dataclass(frozen=True, slots=True)
class SetResult:
    """The results on one set."""

    name: str
    n: int
    #: Number of photos that `n` were drawn from, with the seed of the run.
    drawn_from: int
    #: Photos that none of the models that classified them was trained on.
    photos: StageComparison
    seen_in_training: StageComparison | None
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """A run of one state of the models."""

    profiles: tuple[str, ...]
    policy: str
    #: Model of stage 1 of each profile, with the SHA-256 of its weights.
    stage1: dict[str, str]
    excluded_sources: tuple[str, ...]
    seed: int
    sets: tuple[SetResult, ...]
    environment: Environment


def photo_set(
    name: str, folder: Path, tier: str = "", excluded: frozenset[str] = frozenset(), sample: int = 0, seed: int = SEED
) -> PhotoSet:
    """Return the photos of a folder that people could label.

    tier: of the notes; all by default. excluded: sources to leave out. sample: draw at most this many; 0 takes all.
    Raises ConfigError when the folder is missing or no photo is left.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist; name the folder that holds photos/ and opendata/ with --data")
    found = [
        each
        for each in photo_metadata(folder)
        if each.kind == "photo" and not each.ignore and each.source not in excluded
        if not tier or f"tier={tier}" in each.tags
    ]
    if not found:
        raise ConfigError(f"{folder} has no photos left to score; check --tier and --exclude-source")
    drawn = random.Random(seed).sample(found, sample) if 0 < sample < len(found) else found
    return PhotoSet(name, folder, tuple(drawn), len(found))


def assign(photos: Sequence[SampleMetadata], seen: Sequence[TrainingData]) -> list[int | None]:
    """Return for each photo the index of the first model that was not trained on it; None when all were."""
    return [
        next((index for index, data in enumerate(seen) if not data.covers(photo.source, photo.group)), None)
        for photo in photos
    ]


def score(photos: PhotoSet, profiles: Sequence[Profile], policies: Sequence[Policy]) -> SetResult:
    """Classify a set, each photo by the profile it is assigned to; those that all were trained on by the first."""
    began = time.monotonic()
    places = assign(photos.photos, [seen_data(*each) for each in zip(profiles, policies, strict=True)])
    fresh: list[EvaluationRow] = []
    for index, (profile, policy) in enumerate(zip(profiles, policies, strict=True)):
        fresh += classify_photos(photos, _placed(photos, places, index), profile, policy)
    seen = classify_photos(photos, _placed(photos, places, None), profiles[0], policies[0])
    return SetResult(
        name=photos.name,
        n=len(photos.photos),
        drawn_from=photos.drawn_from,
        photos=stage_comparison(fresh, policies[0]),
        seen_in_training=stage_comparison(seen, policies[0]) if seen else None,
        elapsed_s=round(time.monotonic() - began, 1),
    )


def _placed(photos: PhotoSet, places: Sequence[int | None], index: int | None) -> list[SampleMetadata]:
    return [photo for photo, at in zip(photos.photos, places, strict=True) if at == index]


def fresh_photos(photos: PhotoSet, profile: Profile, policy: Policy) -> list[SampleMetadata]:
    """Return the photos that no model of the profile was trained on."""
    return _placed(photos, assign(photos.photos, [seen_data(profile, policy)]), 0)


def classify_photos(
    photos: PhotoSet, wanted: Sequence[SampleMetadata], profile: Profile, policy: Policy
) -> list[EvaluationRow]:
    """Classify some photos of a set in this process. Raises ConfigError when one gets no verdict."""
    if not wanted:
        return []

    async def run() -> list[EvaluationRow]:
        with progress() as bar:
            task = bar.add_task(f"{photos.name}, {profile.name}", total=len(wanted))
            async with local_cascade(profile, policy) as cascade:
                samples = photo_samples(photos.folder, wanted)
                rows, failed = await evaluate_samples(samples, cascade, (), lambda: bar.advance(task))
        if failed:
            raise ConfigError(f"{failed[0].name} got no verdict: {failed[0].message}; mend or remove it")
        return rows

    return asyncio.run(run())


def add_run(out: Path, label: str, run: Run) -> None:
    """Write the run to the result file, in place of an earlier one with this label."""
    kept: dict[str, Any] = json.loads(out.read_text())["runs"] if out.is_file() else {}
    write_json(out, {"caveat": CAVEAT, "runs": kept | {label: asdict(run)}})


def main(arguments: list[str] | None = None) -> int:
    """Score both sets and add the run to the result file."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.real_photos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--label", default="latest", help="name of the run, such as before or after; %(default)s")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with photos/ and opendata/; %(default)s")
    parser.add_argument("--profile", nargs="+", default=["cpu"], help="one profile, or one for each fold of sources")
    parser.add_argument("--policy", help="policy of all profiles; by default the one that each names")
    parser.add_argument("--tier", default="B", help="tier of opendata to score; %(default)s, or an empty text for all")
    parser.add_argument("--sample", type=int, default=0, help="draw at most this many photos of opendata; 0 takes all")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample; %(default)s")
    parser.add_argument("--exclude-source", action="append", default=[], help="leave out a source; repeat for more")
    parser.add_argument("--out", type=Path, default=OUT, help="result file, which keeps runs with other labels")
    chosen = parser.parse_args(arguments)
    command = ["python", "-m", "benchmarks.real_photos", *(sys.argv[1:] if arguments is None else arguments)]
    environment, excluded = Environment.here(shlex.join(command)), frozenset(chosen.exclude_source)
    try:
        profiles = [load_profile(name) for name in chosen.profile]
        policies = [load_policy(chosen.policy or profile.policy) for profile in profiles]
        tier = f"opendata, tier {chosen.tier}" if chosen.tier else "opendata"
        sets = (
            photo_set("photos", chosen.data / "photos", excluded=excluded),
            photo_set(tier, chosen.data / "opendata", chosen.tier, excluded, chosen.sample, chosen.seed),
        )
        results = tuple(score(each, profiles, policies) for each in sets)
    except RoadworkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    models = [profile.engine_of("backbone").model for profile in profiles]
    run = Run(
        profiles=tuple(profile.name for profile in profiles),
        policy=policies[0].version,
        stage1={model: fingerprint(weights_folder(model)) for model in models},
        excluded_sources=tuple(sorted(excluded)),
        seed=chosen.seed,
        sets=results,
        environment=environment,
    )
    add_run(chosen.out, chosen.label, run)
    print(f"Written to {chosen.out}; `make tables` updates the documentation.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
