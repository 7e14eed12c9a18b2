"""Compare `roadwork score` with a bare loop over stage 1, and resume it after a kill: `python -m benchmarks.bulk`.

The bare loop is one process that reads a file, decodes it to the input of stage 1 and runs the backbone and its head in
batches of sixteen: no batcher, no router, no verdicts, no output. It uses the number of threads that is fastest for it
in a trial over 320 files. `score` uses a policy under which every still exits at stage 1. Both are timed from the
moment their models are loaded. They run in alternation, and the ratio is that of the medians. Startup is reported
separately.

Then `score` is killed, with all processes that it started, after two fifths of the files, and the same command is run
again.
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
from benchmarks.peers.ours import ONE_STAGE
from roadwork_serve.atomic_write import write_json
from roadwork_serve.batch.parts import BatchRun
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.progress import progress
from roadwork_serve.ray_environment import named_cluster, ray_environment
from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_seed

OUT = Path("benchmarks/results/bulk.json")
SCENES = Path("build/bulk")
SEED = 9301
BATCH = 16
TRIAL_FILES = 320


@dataclass(frozen=True, slots=True)
class Timing:
    """A run over all files."""

    #: Time until the models were loaded.
    start_s: float
    #: Time from there to the end.
    work_s: float
    #: Files per second.
    per_s: float


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The run that was killed and resumed."""

    #: Rows written before the kill.
    rows_before_kill: int
    #: Rows in both tables at the end.
    rows: int
    #: Distinct files among them.
    distinct_files: int


@dataclass(frozen=True, slots=True)
class Result:
    """The result file."""

    environment: Environment
    scenes: int
    seed: int
    #: The bare loop over TRIAL_FILES, by number of threads.
    bare_by_threads: dict[int, Timing]
    threads: int
    #: The bare loop with the best number of threads.
    bare: list[Timing]
    score: list[Timing]
    #: Median throughput of `score` over that of the bare loop.
    ratio: float
    interrupted: Interrupted


def bare_loop(files: Sequence[Path], threads: int) -> Timing:
    """Time the bare loop in this process."""
    from roadwork_serve import media
    from roadwork_serve.cascade.prediction import Item
    from roadwork_serve.profiles.stage_spec import StageSpec
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
    return _timing(began, opened, time.monotonic(), len(files))


def time_score(folder: Path, out: Path, policy: Path) -> Timing:
    """Time `score` over Ray Data, in this process and those it starts."""
    import logging

    import ray

    from deployments.batch_job import BatchDone, JobSpec, score

    began = time.time()
    ray.init(named_cluster() or "local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    done: list[BatchDone] = []
    total = score(JobSpec(source=str(folder), out=out, match=("*.jpg",), policy=str(policy)), on_done=done.append)
    opened, ended = min(kept.began_s for kept in done), max(kept.ended_s for kept in done)
    return _timing(began, opened, ended, total.verdicts)


def _timing(began: float, opened: float, ended: float, files: int) -> Timing:
    return Timing(round(opened - began, 1), round(ended - opened, 2), round(files / (ended - opened), 1))


def _in_process(*args: object) -> Timing:
    """Run one of the two variants in a fresh process and return its timing."""
    command = [sys.executable, "-m", "benchmarks.bulk", "--variant", *map(str, args)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ray_environment() | os.environ)
    return Timing(**json.loads(done.stdout.splitlines()[-1]))


def _interrupt(folder: Path, out: Path, policy: Path, scenes: int) -> Interrupted:
    roadwork = Path(sys.executable).with_name("roadwork")
    command = [roadwork, "score", folder, "--profile", "mini", "--out", out, "--match", "*.jpg", "--policy", policy]
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
    return Interrupted(done, len(names), len(set(names)))


def _render(count: int) -> list[Path]:
    """Return the files of the scenes, rendering those that are missing."""
    SCENES.mkdir(parents=True, exist_ok=True)
    paths = [SCENES / f"{scene_seed(SEED, index)}.jpg" for index in range(count)]
    missing = [(int(path.stem), "photo") for path in paths if not path.is_file()]
    with progress() as bar:
        for sample in bar.track(draw_scenes(missing, drawing_workers()), total=len(missing), description="Rendering"):  # type: ignore[arg-type]
            draft = SCENES / "draft"
            draft.write_bytes(sample.data)
            draft.replace(SCENES / f"{sample.metadata.seed}.jpg")
    return paths


def main() -> None:
    """Render, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=5000, help="number of stills to score")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each variant, in alternation")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    parser.add_argument("--variant", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        variant, folder, *options = args.variant
        if variant == "bare_loop":
            timing = bare_loop(sorted(Path(folder).glob("*.jpg"))[: int(options[1])], int(options[0]))
        else:
            timing = time_score(Path(folder), Path(options[0]), Path(options[1]))
        print(json.dumps(asdict(timing)))
        return
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.bulk", *sys.argv[1:]]))
    paths = _render(args.scenes)
    with tempfile.TemporaryDirectory(prefix="bulk-") as work:
        folder, policy = Path(work) / "scenes", Path(work) / "stage-1.yaml"
        folder.mkdir()
        for path in paths:
            (folder / path.name).symlink_to(path.absolute())
        policy.write_text(yaml.safe_dump(ONE_STAGE))
        bare_by_threads = {
            threads: _in_process("bare_loop", folder, threads, TRIAL_FILES)
            for threads in range(1, environment.cores + 1)
        }
        threads = max(bare_by_threads, key=lambda each: bare_by_threads[each].per_s)
        loops: list[Timing] = []
        runs: list[Timing] = []
        for repeat in range(args.repeats):
            loops.append(_in_process("bare_loop", folder, threads, args.scenes))
            print(f"bare loop, {threads} threads: {loops[-1].per_s} per second", flush=True)
            runs.append(_in_process("score", folder, Path(work) / f"{repeat}.parquet", policy))
            print(f"score: {runs[-1].per_s} per second", flush=True)
        interrupted = _interrupt(folder, Path(work) / "interrupted.parquet", policy, args.scenes)
        rates = [statistics.median(each.per_s for each in timings) for timings in (runs, loops)]
        ratio = round(rates[0] / rates[1], 3)
        result = Result(environment, args.scenes, SEED, bare_by_threads, threads, loops, runs, ratio, interrupted)
    write_json(args.out, asdict(result))
    print(f"score / bare loop: {ratio}")
    print(f"killed after {interrupted.rows_before_kill} rows, finished with {interrupted.rows}")


if __name__ == "__main__":
    main()
