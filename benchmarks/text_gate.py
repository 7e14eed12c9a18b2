"""`python -m benchmarks.text_gate`: what is lost where the sign reader is asked only if stage 1 expects text.

Two stages, as in the comparison with other servers: stage 1, and the sign reader where stage 1 is unsure. The reader
reads all of these photos once; then the verdicts are replayed for several values of `min_text_probability`. The photos
are the real ones of `benchmarks.real_photos` that the weights were not trained on, and scenes made as those of the
comparison.
"""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.environment import Environment
from benchmarks.peers.model import PROFILE
from benchmarks.peers.ours import two_stages
from benchmarks.peers.pictures import SEED, SIZES, pictures
from benchmarks.real_photos import DATA, classify_photos, fresh_photos, photo_set
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.evaluation import metrics
from roadwork_serve.evaluation.replay import replay
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.run import evaluate_samples
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.testbed.scene_dataset import draw_scene

OUT = RESULTS / "text-gate.json"
GATES = (None, 0.2, 0.3, 0.4, 0.5, 0.6)
SIGNS = "signs"


@dataclass(frozen=True, slots=True)
class Row:
    """The verdicts on a set of photos, with one value of `min_text_probability`."""

    photos: str
    #: None where the reader is asked about every photo on which stage 1 is unsure.
    min_text_probability: float | None
    n: int
    #: Number of photos with road work.
    positives: int
    #: Number of photos on which stage 1 is unsure.
    unsure: int
    #: Number of photos that the sign reader is asked about.
    asked: int
    #: Number of photos on which it reads a sign that speaks for or against road work.
    telling: int
    accuracy: float
    auc: float
    ece: float
    #: Number of other labels than without the condition, and of those that are right.
    changed: int
    changed_to_right: int


def rows_of(name: str, rows: Sequence[EvaluationRow], policy: Policy) -> Iterator[Row]:
    """Yield the result for each value of `min_text_probability`, from rows made without it."""
    truth = np.array([bool(row.metadata.label) for row in rows])
    unsure = [row for row in rows if row.record(SIGNS) is not None]
    first, reader = policy.photo
    before = None
    for gate in GATES:
        gated = reader.model_copy(update={"min_text_probability": gate})
        replayed = [replay(row, policy.with_steps("photo", (first, gated))) for row in rows]
        probability = np.array([each.progress.posterior for each in replayed])
        predicted = probability >= policy.decision_threshold
        before = predicted if before is None else before
        asked = [row for row in unsure if gated.applies(row.records[0].text_probability)]
        changed = predicted != before
        yield Row(
            name, gate, len(rows), int(truth.sum()), len(unsure), len(asked),
            sum(bool(found := row.record(SIGNS)) and bool(found.logit) for row in asked),
            round(metrics.accuracy(truth, predicted), 4), round(metrics.auc(truth, probability), 4),
            round(metrics.ece(truth, probability), 4),
            int(changed.sum()), int((changed & (predicted == truth)).sum()),
        )  # fmt: skip


def scene_rows(profile: Profile, policy: Policy, count: int) -> list[EvaluationRow]:
    """Classify rendered scenes made like the photos of the comparison; its own come first."""
    scenes = [
        replace(draw_scene(SEED + index, "photo"), data=data)
        for index, data in enumerate(pictures(next(iter(SIZES)), count))
    ]

    async def run() -> list[EvaluationRow]:
        async with local_cascade(profile, policy) as cascade:
            rows, failed = await evaluate_samples(scenes, cascade)
        if failed:
            raise RuntimeError(f"{failed[0].name} got no verdict: {failed[0].message}")
        return rows

    return asyncio.run(run())


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_gate", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with photos/ and opendata/; %(default)s")
    parser.add_argument("--scenes", type=int, default=400, help="rendered scenes; %(default)s")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    command = shlex.join(["python", "-m", "benchmarks.text_gate", *sys.argv[1:]])
    environment = Environment.here(command)
    profile, policy = load_profile(PROFILE), Policy.parse(two_stages(min_text_probability=None))
    found: list[Row] = []
    for name, folder, tier in (("photos", "photos", ""), ("opendata, tier B", "opendata", "B")):
        photos = photo_set(name, given.data / folder, tier)
        fresh = fresh_photos(photos, profile, policy)
        found += rows_of(name, classify_photos(photos, fresh, profile, policy), policy)
    found += rows_of("rendered scenes", scene_rows(profile, policy, given.scenes), policy)
    for row in found:
        print(row)
    write_json(given.out, {"environment": asdict(environment), "rows": [asdict(row) for row in found]})


if __name__ == "__main__":
    main()
