"""The batch job behind `roadwork score`: the cascade over Ray Data. Run as `python -m deployments.batch_job JOB`.

Each worker is a process with a cascade of its own. Ray Data gives it batches of files, and gives them to another worker
if it dies. Results are stored here, batch by batch, so workers may be on other machines and nothing is written twice.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from deployments.gpus import cluster_gpus
from roadwork_serve.batch.inputs import InputFile, InputSource, open_source
from roadwork_serve.batch.parts import BatchRun, BatchTotals, RunSpec, encode_part
from roadwork_serve.batch.scorer import Scorer
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.printable import writable
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.progress import progress
from roadwork_serve.ray_environment import named_cluster
from roadwork_serve.stages.load import Opener
from roadwork_serve.terminal import echo, echo_error

_WORKER_GIB = 2.0  # of memory for a worker on a CPU: with all miniatures loaded it uses 1.2
_BATCHES_IN_FLIGHT = 2  # per worker, so that the next batch is read while the last files of one are classified
_MAX_BLOCKS = 4096  # of the dataset; a block may hold several batches


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The arguments of `roadwork score`."""

    #: Folder, bucket or table of files.
    source: str
    #: File for the verdicts.
    out: Path
    #: Patterns of file names; empty for all.
    match: tuple[str, ...] = ()
    #: Column of a table with images or paths.
    column: str | None = None
    #: Profile of the models.
    profile: str = "cpu"
    #: Policy; by default the profile's.
    policy: str | None = None
    #: Number of workers; by default one for each core or GPU.
    workers: int | None = None

    @classmethod
    def from_json(cls, text: str) -> "JobSpec":
        """Return a job from JSON, which may have names that are not UTF-8 as halves of surrogate pairs."""
        fields = json.loads(text)
        return cls(**fields | {"out": Path(fields["out"]), "match": tuple(fields["match"])})


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The number of workers, and the resources of each."""

    workers: int
    #: CPU threads of each worker.
    threads: int
    #: GPUs of each worker.
    num_gpus: int


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A completed batch."""

    #: Number of files.
    files: int
    #: Start and end, Unix seconds.
    began_s: float
    ended_s: float


class Worker:
    """A process with a cascade that scores batches of files."""

    def __init__(
        self, source: InputSource, profile: Profile, policy: Policy, decoders: int, opener: Opener | None
    ) -> None:
        self._scorer = Scorer(source, profile, policy, decoders, opener)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score a batch; return its encoded results, with times."""
        began_s = time.time()
        files = [InputFile(*each) for each in json.loads(row["files"])]
        scored = encode_part(self._scorer.score(files))
        times = {"began_s": began_s, "ended_s": time.time()}
        return {"batch": row["batch"], "part": scored, "files": len(files)} | times


def score(
    job: JobSpec,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_done: Callable[[BatchDone], None] = lambda done: None,
    opener: Opener | None = None,
) -> BatchTotals:
    """Score the files of a job, continuing where an earlier run of the same job was interrupted. Ray must run.

    Raises ConfigError for an invalid job, and ModelError if a model cannot be loaded.

    Args:
        job: The job.
        on_start: Called with the number of files, and the number of those that are scored already.
        on_done: Called after every batch.
        opener: Opens engines; by default as the server does.
    """
    profile = load_profile(job.profile)
    policy = load_policy(job.policy or profile.policy)
    source = open_source(job.source, job.match, job.column)
    spec = RunSpec(
        source=writable(source.uri if "://" in source.uri else source.path),
        match=source.match,
        column=source.column,
        profile=profile.model_dump(mode="json"),
        policy=policy.to_mapping(),
        version=version("roadwork-serve"),
    )
    run = BatchRun(job.out)
    run.check(spec)
    free = ray.available_resources()  # the cluster may run other work, such as the server
    cpus, memory_gib = int(free.get("CPU", 0)), free.get("memory", 0) / 2**30
    plan = plan_workers(profile, policy, job.workers, cpus, memory_gib, cluster_gpus().gib)
    files = [] if run.started else source.list_files()
    with run.locked():
        if files:
            run.start(spec, files)
        total, left = run.remaining()
        on_start(total, total - sum(len(batch) for _, batch in left))
        if left:
            arguments = source, _with_threads(profile, plan.threads), policy, plan.threads, opener
            for row in _scored(left, plan, arguments).iter_rows():
                run.save_part(row["batch"], row["part"])
                on_done(BatchDone(row["files"], row["began_s"], row["ended_s"]))
        return run.finish()


def _scored(
    left: Sequence[tuple[int, list[InputFile]]], plan: WorkerPlan, arguments: tuple[Any, ...]
) -> ray.data.Dataset:
    """Return a row for each batch, as `Worker` returns it. `arguments` are those of the constructor of `Worker`."""
    rows = [{"batch": number, "files": json.dumps([astuple(file) for file in files])} for number, files in left]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS)).map(
        cast(Any, Worker),  # Ray accepts classes; its types do not
        fn_constructor_args=arguments,
        compute=ActorPoolStrategy(
            size=min(plan.workers, len(left)),
            max_tasks_in_flight_per_actor=_BATCHES_IN_FLIGHT,
            max_concurrent_calls_per_actor=_BATCHES_IN_FLIGHT,
        ),
        num_cpus=plan.threads,
        num_gpus=plan.num_gpus,
    )


def plan_workers(
    profile: Profile, policy: Policy, workers: int | None, cpus: int, memory_gib: float, gpus: Sequence[float]
) -> WorkerPlan:
    """Return one worker for each GPU, or core: two workers with a thread each are faster than one with two threads.

    Raises ConfigError if there is no free CPU, or if the engines do not fit one GPU together: a worker has one.

    Args:
        profile: The profile.
        policy: The policy.
        workers: Requested number of workers; None for as many as make sense.
        cpus: Free CPUs.
        memory_gib: Free memory.
        gpus: Memory of each GPU in GiB.
    """
    if cpus < (workers or 1):
        raise ConfigError(f"{workers or 1} workers need a CPU each, and Ray has {cpus} free; wait, or add machines")
    named = {step.stage for step in (*policy.photo, *policy.clip)}
    used = [profile.engines[name] for name, users in profile.users().items() if named & users.keys()]
    if not any(engine.device == "cuda" for engine in used):
        count = workers or max(1, min(cpus, int(memory_gib / _WORKER_GIB)))
        return WorkerPlan(count, cpus // count, 0)
    instead = "use a profile whose engines fit one GPU, or a server: roadwork classify --server URL"
    if not gpus:
        raise ConfigError(f"profile {profile.name} needs a GPU, and there is none; use --profile cpu")
    if any(engine.time_slice_group for engine in used):
        raise ConfigError(
            f"engines of profile {profile.name} share a GPU by time slicing, which workers cannot; {instead}"
        )
    try:
        plan_placement(profile.with_gpus(dict.fromkeys(profile.engines)), [min(gpus)])
    except ConfigError as error:
        raise ConfigError(f"a worker has one GPU, and {error}; {instead}") from None
    return WorkerPlan(min(workers or len(gpus), len(gpus)), 1, 1)


def _with_threads(profile: Profile, threads: int) -> Profile:
    engines = {
        name: engine if engine.device == "cuda" else engine.model_copy(update={"threads": max(engine.threads, threads)})
        for name, engine in profile.engines.items()
    }
    return profile.model_copy(update={"engines": engines})


def main() -> None:
    """Run the job on the command line, with a progress bar on stderr. Exit with code 2 if it cannot run."""
    job, began_s = JobSpec.from_json(sys.argv[1]), time.monotonic()
    ray.init(named_cluster() or "local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs to a file of its own
    DataContext.get_current().enable_progress_bars = False
    try:
        with progress() as bar:
            task = bar.add_task("Loading models", total=None)

            def start(total: int, done: int) -> None:
                bar.update(task, total=total, completed=done)

            def advance(done: BatchDone) -> None:
                bar.update(task, description="Scoring", advance=done.files)

            total = score(job, start, advance)
    except RoadworkError as error:
        echo_error(f"{error.title}: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        echo("Stopped. Run the same command to continue.", err=True)
        raise SystemExit(130) from None
    run = BatchRun(job.out)
    degraded = f", {total.degraded:,} of them degraded" if total.degraded else ""
    echo(f"{run.out}: {total.verdicts:,} verdicts{degraded}, in {time.monotonic() - began_s:.0f} s")
    echo(f"{run.rejects}: {total.rejects:,} files without one")
    if not total.verdicts:
        echo_error(f"No file has a verdict. The first problems are {'; '.join(total.reasons)}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
