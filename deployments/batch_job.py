"""`python -m deployments.batch_job ORDER`, which is what `roadwork score` becomes: the router over Ray Data.

Each worker is a process with a cascade of its own. Ray Data hands it lots of files, and another when one dies; what
comes back is kept lot by lot, here, so workers may be on other machines and nothing is written twice.
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
import typer
from pydantic import BaseModel, ConfigDict
from ray.data import ActorPoolStrategy, DataContext

from deployments.gpus import gpu_memory_gib
from roadwork_serve.batch.inputs import InputFile, InputSource, open_source
from roadwork_serve.batch.parts import BatchRun, BatchTotals, RunSpec, encode_part
from roadwork_serve.batch.scorer import Scorer
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.progress import progress
from roadwork_serve.stages.load import Opener

_WORKER_GIB = 2.0  # of memory for a worker on a CPU: with all miniatures open it has 1.2
_LOTS_AT_ONCE = 2  # in a worker, so that the next is read while the last files of one are judged
_BLOCKS = 4096  # of the data set at most; a block may be several lots


class JobSpec(BaseModel):
    """What `roadwork score` was told. workers: None for as many as the cores or cards suggest."""

    model_config = ConfigDict(extra="forbid")

    source: str
    out: Path
    match: tuple[str, ...] = ()
    column: str | None = None
    profile: str = "mini"
    policy: str | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Workers, and what each is given."""

    workers: int
    threads: int
    num_gpus: int


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A lot that is done: how many files it has, and when its worker began and ended it, Unix seconds."""

    files: int
    began_s: float
    ended_s: float


class Worker:
    """A process with a cascade. Takes a lot of files and gives back what is to be kept of it."""

    def __init__(self, of: InputSource, profile: Profile, policy: Policy, readers: int, opener: Opener | None) -> None:
        self._scorer = Scorer(of, profile, policy, readers, opener)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        began_s = time.time()
        files = [InputFile(*each) for each in json.loads(row["files"])]
        scored = encode_part(self._scorer.score(files))
        times = {"began_s": began_s, "ended_s": time.time()}
        return {"lot": row["lot"], "part": scored, "files": len(files)} | times


def score(
    order: JobSpec,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_done: Callable[[BatchDone], None] = lambda kept: None,
    opener: Opener | None = None,
) -> BatchTotals:
    """Score what the order names, going on where an earlier run of the same was broken off. Ray must run.

    on_start: told how many files there are, and of how many a verdict is kept already; on_done: after every lot.
    Raises ConfigError when the order makes no sense, ModelError where a model cannot be loaded.
    """
    profile = load_profile(order.profile)
    policy = load_policy(order.policy or profile.policy)
    of = open_source(order.source, order.match, order.column)
    recipe = RunSpec(
        source=of.named if "://" in of.named else of.path,
        match=of.match,
        column=of.column,
        profile=profile.model_dump(mode="json"),
        policy=policy.to_mapping(),
        version=version("roadwork-serve"),
    )
    run = BatchRun(order.out)
    run.check(recipe)
    free = ray.available_resources()  # others may run on the cluster, such as the server
    cpus, memory_gib = int(free.get("CPU", 0)), free.get("memory", 0) / 2**30
    crew = plan_workers(profile, policy, order.workers, cpus, memory_gib, gpu_memory_gib())
    files = [] if run.begun else of.listed()
    with run.alone():
        if files:
            run.begin(recipe, files)
        total, left = run.left()
        on_start(total, total - sum(len(lot) for _, lot in left))
        if left:
            given = of, _with_threads(profile, crew.threads), policy, crew.threads, opener
            for row in _scored(left, crew, given).iter_rows():
                run.keep(row["lot"], row["part"])
                on_done(BatchDone(row["files"], row["began_s"], row["ended_s"]))
        return run.finish()


def _scored(left: Sequence[tuple[int, list[InputFile]]], crew: WorkerPlan, given: tuple[Any, ...]) -> ray.data.Dataset:
    """A row for each lot, as `Worker` gives it back. given: what workers are made with."""
    rows = [{"lot": number, "files": json.dumps([astuple(file) for file in lot])} for number, lot in left]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS)).map(
        cast(Any, Worker),  # Ray takes classes, and its types know of functions only
        fn_constructor_args=given,
        compute=ActorPoolStrategy(
            size=min(crew.workers, len(left)),
            max_tasks_in_flight_per_actor=_LOTS_AT_ONCE,
            max_concurrent_calls_per_actor=_LOTS_AT_ONCE,
        ),
        num_cpus=crew.threads,
        num_gpus=crew.num_gpus,
    )


def plan_workers(
    profile: Profile, policy: Policy, workers: int | None, cpus: int, memory_gib: float, cards: Sequence[float]
) -> WorkerPlan:
    """A worker a card, or a core: two that compute with a thread each do more than one with two.

    cpus, memory_gib: that are free. Raises ConfigError where there is no CPU, or where the engines do not fit one card
    together: a worker has one.
    """
    if cpus < (workers or 1):
        raise ConfigError(f"{workers or 1} workers need a CPU each, and Ray has {cpus} free; wait, or add machines")
    named = {step.stage for step in (*policy.photo, *policy.clip)}
    used = [profile.engines[name] for name, users in profile.users().items() if named & users.keys()]
    if not any(engine.device == "cuda" for engine in used):
        count = workers or max(1, min(cpus, int(memory_gib / _WORKER_GIB)))
        return WorkerPlan(count, cpus // count, 0)
    instead = "take a profile whose engines fit one card, or ask a server: roadwork classify --url"
    if not cards:
        raise ConfigError(f"profile {profile.name} needs a GPU, and there is none; take --profile mini")
    if any(engine.turns for engine in used):
        raise ConfigError(f"engines of profile {profile.name} take turns, which workers cannot; {instead}")
    try:
        plan_placement(profile, [min(cards)])
    except ConfigError as error:
        raise ConfigError(f"a worker has one card, and {error}; {instead}") from None
    return WorkerPlan(min(workers or len(cards), len(cards)), 1, 1)


def _with_threads(profile: Profile, threads: int) -> Profile:
    engines = {
        name: engine if engine.device == "cuda" else engine.model_copy(update={"threads": max(engine.threads, threads)})
        for name, engine in profile.engines.items()
    }
    return profile.model_copy(update={"engines": engines})


def main() -> None:
    """Score what the order on the command line says, with a bar on stderr. Exit code 2 where that cannot be."""
    order, began_s = JobSpec.model_validate_json(sys.argv[1]), time.monotonic()
    ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it has a file of its own
    DataContext.get_current().enable_progress_bars = False
    try:
        with progress() as bar:
            task = bar.add_task("Opening the models", total=None)

            def start(total: int, done: int) -> None:
                bar.update(task, total=total, completed=done)

            def advance(kept: BatchDone) -> None:
                bar.update(task, description="Scoring", advance=kept.files)

            total = score(order, start, advance)
    except RoadworkError as error:
        typer.secho(f"{error.title}: {error}", fg="red", err=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on where this one was.", err=True)
        raise SystemExit(130) from None
    run = BatchRun(order.out)
    degraded = f", {total.degraded:,} of them degraded" if total.degraded else ""
    typer.echo(f"{run.out}: {total.verdicts:,} verdicts{degraded}, in {time.monotonic() - began_s:.0f} s")
    typer.echo(f"{run.rejects}: {total.rejects:,} files without one")


if __name__ == "__main__":
    main()
