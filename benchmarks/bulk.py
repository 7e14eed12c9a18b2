"""`python -m benchmarks.bulk`: `roadwork score` against a bare loop over stage 1, and broken off and gone on with.

The bare loop is one process that reads a file, decodes it to what stage 1 looks at, and sends sixteen at a time
through the backbone and its head: no batcher, no router, no verdicts, nothing written. It is given the number of
threads that suits it best, as a run over 320 files shows. `score` goes by a policy under which every still leaves at
stage 1. Both are timed from when their models are open; they take turns, and the ratio is that of the medians. What
either needs to start is told apart.

Then `score` is killed with everything it started when two fifths are done, and the same command given again.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from benchmarks.environment import Environment
from roadwork_serve.atomic_write import write_json
from roadwork_serve.batch.parts import BatchRun
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.progress import progress
from roadwork_serve.ray_environment import RAY
from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_seed

OUT = Path("benchmarks/results/bulk.json")
SCENES = Path("build/bulk")
SEED = 9301
BATCH = 16
TRIED = 320
POLICY = {
    "version": "stage-1",
    "photo": [{"stage": "backbone", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "backbone", "exit": [0.5, 0.5]}],
}


@dataclass(frozen=True, slots=True)
class Timed:
    """A run over all files. start_s: until the models were open; work_s: from there on."""

    start_s: float
    work_s: float
    a_second: float


@dataclass(frozen=True, slots=True)
class BrokenOff:
    """done_before: files that were kept when all was killed; rows: in both tables at the end; files: of those names."""

    done_before: int
    rows: int
    files: int


@dataclass(frozen=True, slots=True)
class Result:
    """tried: the bare loop by its number of threads, over TRIED files; bare: with the best of them, over all.

    ratio: files a second of `score` over those of the bare loop, by the medians.
    """

    environment: Environment
    scenes: int
    seed: int
    tried: dict[int, Timed]
    threads: int
    bare: list[Timed]
    score: list[Timed]
    ratio: float
    broken_off: BrokenOff


def bare(files: Sequence[Path], threads: int) -> Timed:
    """Return the loop itself, in this process."""
    from roadwork_serve import media
    from roadwork_serve.cascade.prediction import Item
    from roadwork_serve.profiles.profile import StageSpec
    from roadwork_serve.stages.backbone import Backbone

    began = time.monotonic()
    profile = load_profile("mini")
    engine = profile.engine_of("backbone").model_copy(update={"threads": threads})
    stage = Backbone(StageSpec(engine="dinov3"), engine)
    stage.warm()
    opened = time.monotonic()
    for start in range(0, len(files), BATCH):
        read = [media.read(path.read_bytes(), profile.media) for path in files[start : start + BATCH]]
        stage.predict([Item.of(each, "bare", 0.0) for each in read])
    return _timed(began, opened, time.monotonic(), len(files))


def scored(folder: Path, out: Path, policy: Path) -> Timed:
    """`score` over Ray Data, in this process and what it starts."""
    import logging

    import ray

    from deployments.batch_job import BatchDone, JobSpec, score

    began = time.time()
    ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    done: list[BatchDone] = []
    total = score(JobSpec(source=str(folder), out=out, match=("*.jpg",), policy=str(policy)), on_done=done.append)
    opened, ended = min(kept.began_s for kept in done), max(kept.ended_s for kept in done)
    return _timed(began, opened, ended, total.verdicts)


def _timed(began: float, opened: float, ended: float, files: int) -> Timed:
    return Timed(round(opened - began, 1), round(ended - opened, 2), round(files / (ended - opened), 1))


def _apart(*args: object) -> Timed:
    """One of the two above in a process of its own, which nothing has warmed up."""
    command = [sys.executable, "-m", "benchmarks.bulk", "--one", *map(str, args)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=RAY | os.environ)
    return Timed(**json.loads(done.stdout.splitlines()[-1]))


def _broken_off(folder: Path, out: Path, policy: Path, scenes: int) -> BrokenOff:
    roadwork = Path(sys.executable).with_name("roadwork")
    command = [roadwork, "score", folder, "--out", out, "--match", "*.jpg", "--policy", policy]
    run = BatchRun(out)
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(pq.read_metadata(path).num_rows for path in run.folder.glob("parts/[0-9]*.parquet")) < 0.4 * scenes:
        if first.poll() is not None:
            raise SystemExit("score ended before it could be killed")
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = sum(pq.read_metadata(path).num_rows for path in run.folder.glob("parts/[0-9]*.parquet"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    names = [name for path in (run.out, run.rejects) for name in pq.read_table(path).column("file").to_pylist()]
    return BrokenOff(done, len(names), len(set(names)))


def _drawn(count: int) -> list[Path]:
    """Return the scenes, drawn where they are not there yet."""
    SCENES.mkdir(parents=True, exist_ok=True)
    paths = [SCENES / f"{scene_seed(SEED, index)}.jpg" for index in range(count)]
    missing = [(int(path.stem), "photo") for path in paths if not path.is_file()]
    with progress() as bar:
        for sample in bar.track(draw_scenes(missing, drawing_workers()), total=len(missing), description="Drawing"):  # type: ignore[arg-type]
            draft = SCENES / "draft"
            draft.write_bytes(sample.data)
            draft.replace(SCENES / f"{sample.metadata.seed}.jpg")
    return paths


def main() -> None:
    """Draw, measure, write OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, folder, *rest = args.one
        if kind == "bare":
            timed = bare(sorted(Path(folder).glob("*.jpg"))[: int(rest[1])], int(rest[0]))
        else:
            timed = scored(Path(folder), Path(rest[0]), Path(rest[1]))
        print(json.dumps(asdict(timed)))
        return
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.bulk", *sys.argv[1:]]))
    paths = _drawn(args.scenes)
    with tempfile.TemporaryDirectory(prefix="bulk-") as work:
        folder, policy = Path(work) / "scenes", Path(work) / "stage-1.yaml"
        folder.mkdir()
        for path in paths:
            (folder / path.name).symlink_to(path.absolute())
        policy.write_text(yaml.safe_dump(POLICY))
        tried = {threads: _apart("bare", folder, threads, TRIED) for threads in range(1, environment.cores + 1)}
        threads = max(tried, key=lambda each: tried[each].a_second)
        loops: list[Timed] = []
        runs: list[Timed] = []
        for repeat in range(args.repeats):
            loops.append(_apart("bare", folder, threads, args.scenes))
            print(f"bare loop, {threads} threads: {loops[-1].a_second} a second", flush=True)
            runs.append(_apart("score", folder, Path(work) / f"{repeat}.parquet", policy))
            print(f"score: {runs[-1].a_second} a second", flush=True)
        broken_off = _broken_off(folder, Path(work) / "broken.parquet", policy, args.scenes)
        rates = [statistics.median(each.a_second for each in timed) for timed in (runs, loops)]
        ratio = round(rates[0] / rates[1], 3)
        result = Result(environment, args.scenes, SEED, tried, threads, loops, runs, ratio, broken_off)
    write_json(args.out, asdict(result))
    print(f"score / bare loop: {ratio}; broken off at {broken_off.done_before}, then {broken_off.rows} rows")


if __name__ == "__main__":
    main()
