import sys

import pytest

from deployments import batch_job
from deployments.batch_job import WorkerPlan, plan_workers
from roadwork_serve.batch.parts import BatchTotals
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile

NONE: tuple[float, ...] = ()


def crew(
    profile: Profile, workers: int | None, cpus: int, gpus: tuple[float, ...] = NONE, memory_gib: float = 64
) -> WorkerPlan:
    return plan_workers(profile, load_policy(profile.policy), workers, cpus, memory_gib, gpus)


@pytest.mark.parametrize(
    ("workers", "cpus", "memory_gib", "expected"),
    [
        (None, 1, 64, WorkerPlan(1, 1, 0)),
        (None, 2, 64, WorkerPlan(2, 1, 0)),
        (None, 16, 64, WorkerPlan(16, 1, 0)),
        (None, 16, 9.5, WorkerPlan(4, 4, 0)),
        (None, 2, 0.5, WorkerPlan(1, 2, 0)),
        (3, 16, 1, WorkerPlan(3, 5, 0)),
    ],
)
def test_on_cpus_there_is_a_worker_per_core_if_memory_suffices(
    workers: int | None, cpus: int, memory_gib: float, expected: WorkerPlan
):
    assert crew(load_profile("mini"), workers, cpus, memory_gib=memory_gib) == expected


def test_each_gpu_has_its_own_worker():
    profile = load_profile("gpu-24gb")
    assert crew(profile, None, 8, (23.6, 23.6)) == WorkerPlan(2, 1, 1)
    assert crew(profile, 1, 8, (23.6, 23.6)) == WorkerPlan(1, 1, 1)
    assert crew(profile, 4, 8, (23.6,)) == WorkerPlan(1, 1, 1), "more would wait for a GPU for ever"


@pytest.mark.parametrize(
    ("profile", "gpus", "message"),
    [
        ("gpu-24gb", NONE, "needs a GPU, and there is none"),
        ("gpu-2x24gb", (23.6, 23.6), "a worker has one GPU, and .*or a server"),
    ],
)
def test_a_profile_that_does_not_fit_on_one_gpu_is_rejected(profile: str, gpus: tuple[float, ...], message: str):
    with pytest.raises(ConfigError, match=message):
        crew(load_profile(profile), None, 8, gpus)


def test_time_sliced_engines_are_rejected():
    turning = {"time_slice_group": "both", "replicas": 1, "max_replicas": None}
    profile = load_profile("gpu-80gb", {"engines": {"qwen3-vl": turning, "qwen3-vl-thinking": turning}})
    with pytest.raises(ConfigError, match="share a GPU by time slicing, which workers cannot"):
        crew(profile, None, 8, (79.1,))


@pytest.mark.parametrize(("workers", "cpus"), [(None, 0), (4, 2)])
def test_more_workers_than_cores_are_rejected(workers: int | None, cpus: int):
    with pytest.raises(ConfigError, match=f"Ray has {cpus} free"):
        crew(load_profile("mini"), workers, cpus)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's own, of itself
@pytest.mark.parametrize(("verdicts", "code"), [(0, 1), (1, None)])
def test_a_run_without_a_verdict_fails_and_tells_why(
    verdicts: int, code: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    totals = BatchTotals(verdicts, 0, 2, ("a.jpg: it is cut", "_SUCCESS: the file is empty"))
    monkeypatch.setattr("ray.init", lambda *_, **__: None)
    monkeypatch.setattr(batch_job, "score", lambda *_: totals)
    monkeypatch.setattr(sys, "argv", ["batch_job", '{"source": "x", "out": "/x.csv", "match": []}'])
    found = None
    try:
        batch_job.main()
    except SystemExit as error:
        found = error.code
    assert found == code
    told = "a.jpg: it is cut; _SUCCESS: the file is empty" in capsys.readouterr().err
    assert told == (code == 1)
