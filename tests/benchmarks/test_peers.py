"""Tests of the comparison of servers: load generation and results."""

import asyncio
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from aiohttp import web

from benchmarks.peers import __main__ as peers
from benchmarks.peers.__main__ import Measured, Saturation, save_run
from benchmarks.peers.arguments import Arguments
from benchmarks.peers.bare import LoopResult
from benchmarks.peers.cores import CLIENT, SERVER, count_cores, pinned
from benchmarks.peers.load import Load, Point, Saturated, _rate
from benchmarks.peers.model import PROFILE, Classifier, unsure, weights
from benchmarks.peers.ours import settings
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.plot import plot
from benchmarks.peers.results import Curve, Row, Run, combine_curves, combine_rows, merge_runs
from benchmarks.peers.servers import OURS, PEERS, TRITON_PATH, Process, RunningServer, spent_s
from benchmarks.peers.workloads import (
    BUNDLED,
    CASCADE,
    FLOAT32,
    INT8,
    SMALL,
    TORCH,
    WORKLOADS,
    Engine,
    as_shipped,
    on_one_core,
)
from benchmarks.tables import EARLIER, RESULTS
from deployments.app import Args
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.engines.cpu_features import has_int8_dot_products
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile

REQUEST = (b"photo", {"Content-Type": "image/jpeg"})


@asynccontextmanager
async def answering(status: Callable[[], Awaitable[int]]) -> AsyncIterator[str]:
    """Yield a server that reads what it is sent and answers with the next status and nothing else."""

    async def answer(request: web.Request) -> web.Response:
        assert await request.read() == b"photo"
        return web.Response(status=await status())

    app = web.Application()
    app.router.add_post("/predict", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/predict"
    finally:
        await runner.cleanup()


async def test_arrivals_do_not_wait_for_answers_and_count_from_when_they_were_due() -> None:
    every = 30
    last = asyncio.Barrier(every)

    async def answer_last() -> int:
        await last.wait()
        return 200

    async with answering(answer_last) as url:
        result = await Load(url, [REQUEST], limit_s=0.4).open_loop(60.0, 0.5, seed=3)
    assert (result.sent, result.failed) == (every, 0), "none is answered before all have come"
    dice = random.Random(3)
    due = sorted(dice.uniform(0.0, 0.5) for _ in range(every))
    assert result.p50_ms is not None and result.p99_ms is not None
    assert 1000 * (due[-1] - due[every // 2]) < result.p50_ms
    assert 1000 * (due[-1] - due[1]) < result.p99_ms < 1600


async def test_refused_and_incomplete_answers_are_not_in_time() -> None:
    statuses = itertools.cycle([200, 200, 200, 503])

    async def next_one() -> int:
        return next(statuses)

    async with answering(next_one) as url:
        refused = await Load(url, [REQUEST], limit_s=0.3).open_loop(80.0, 0.5, seed=3)
        cut = await Load(url, [REQUEST], limit_s=0.3, is_complete=lambda body: body != b"").open_loop(80.0, 0.5, seed=3)
    assert (refused.sent, refused.failed, refused.in_time_share) == (40, 10, 0.75)
    assert 0 < refused.in_time_per_s == refused.answered_per_s < 160
    assert (cut.failed, cut.in_time_share) == (40, 0.0)


async def test_a_duration_within_the_limit_is_rejected() -> None:
    with pytest.raises(ValueError, match="too short for a limit of 2 s"):
        await Load("http://127.0.0.1:1", [REQUEST], limit_s=2.0).open_loop(1.0, 2.0, seed=1)


async def test_a_refused_client_retries_a_little_later() -> None:
    requests = itertools.count()

    async def refused() -> int:
        next(requests)
        return 503

    async with answering(refused) as url:
        result = await Load(url, [REQUEST], limit_s=1.0).closed_loop(2, 0.35, 1, 0.0)
    assert result.throughputs == [0.0]
    assert 4 <= result.refused <= 8
    assert 4 <= next(requests) <= 10, "two clients, a tenth of a second after each refusal"


async def test_throughput_at_saturation_counts_answers() -> None:
    async def fine() -> int:
        return 200

    async with answering(fine) as url:
        result = await Load(url, [REQUEST], limit_s=1.0).closed_loop(clients=3, seconds=0.2, repeats=2, warm_s=0.1)
    assert (len(result.throughputs), result.refused) == (2, 0)
    assert min(result.throughputs) > 10


@pytest.mark.parametrize(("start", "rate"), [(0.0, 2.0), (1.0, 2.0), (2.6, 0.0)])
def test_no_part_of_an_answer_is_lost_at_the_edges(start: float, rate: float) -> None:
    assert _rate([0.5, 1.0, 1.5, 2.0, 2.5], start, start + 1.2) == pytest.approx(rate)


def test_clients_can_all_be_answered_in_time() -> None:
    assert WORKLOADS[BUNDLED].clients(2, per_s=1000.0) == 26
    assert WORKLOADS[BUNDLED].clients(2, per_s=10.0) == 15
    assert WORKLOADS[BUNDLED].clients(2, per_s=1.0) == 4


def test_triton_receives_its_own_protocol() -> None:
    photo, kind = RunningServer("FastAPI", "http://127.0.0.1:1/predict", 1).request(b"abc")
    assert (photo, kind) == (b"abc", {"Content-Type": "image/jpeg"})
    body, headers = RunningServer("Triton", f"http://127.0.0.1:1{TRITON_PATH}", 1).request(b"abc")
    head = int(headers["Inference-Header-Content-Length"])
    (result,) = json.loads(body[:head])["inputs"]
    assert result["parameters"]["binary_data_size"] == len(body) - head
    assert body[head:] == struct.pack("<I", 3) + b"abc"


@pytest.mark.parametrize(
    ("server", "exit_reason", "degraded", "is_complete"),
    [
        ("roadwork-serve", "confident", False, True),
        ("roadwork-serve", "deadline", False, False),
        ("roadwork-serve, no journal", "last", True, False),
        ("FastAPI", "deadline", True, True),
    ],
)
def test_an_answer_with_skipped_stages_is_incomplete(
    server: str, exit_reason: str, degraded: bool, is_complete: bool
) -> None:
    verdict = json.dumps({"exit": {"reason": exit_reason}, "degraded": degraded}).encode()
    assert RunningServer(server, "http://127.0.0.1:1", 1).is_complete(verdict) == is_complete


def test_pictures_have_the_sizes_of_their_names() -> None:
    size = next(iter(SIZES))
    first, second = pictures(size, 2)
    assert first != second
    assert all(0.8 < len(each) / SIZES[size][0] < 1.2 for each in (first, second))


def test_a_server_reads_its_arguments_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Arguments(8123, CASCADE, 2, 1, 2.0, 40)
    for name, value in result.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Arguments.from_environment() == result
    assert result.workload == WORKLOADS[CASCADE]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder with a path that is short enough for the sockets of HAProxy."""
    with tempfile.TemporaryDirectory(prefix="rw-") as name:
        yield Path(name)


def own_profile(folder: Path, model: str, journal: bool = True, workers: int = 2) -> tuple[Profile, dict[str, Any]]:
    """Return the profile and the configuration with which this server is measured."""
    settings(folder, Arguments(8123, model, workers, 1, 0.5, 40), journal)
    config = yaml.safe_load((folder / "serve.yaml").read_text())
    args = Args(**config["applications"][0]["args"])
    return load_profile(args.profile, args.overrides), config


@pytest.mark.parametrize("journal", OURS.values())
@pytest.mark.parametrize("model", [BUNDLED, CASCADE])
def test_this_server_does_the_same_work_as_the_others(folder: Path, model: str, journal: bool) -> None:
    profile, config = own_profile(folder, model, journal)
    assert set(profile.stages) == ({"backbone", "signs"} if model == CASCADE else {"backbone"})
    # Stage 1 shares its cores with the second stage, where there is one.
    replicas = {stage: profile.engine_of(stage).replicas for stage in profile.stages}
    assert replicas == ({"backbone": 1, "signs": 2} if model == CASCADE else {"backbone": 2})
    assert {profile.engine_of(stage).threads for stage in profile.stages} == {1}
    assert (profile.journal.enabled, "logging_config" in config) == (journal, not journal)
    first = load_policy(profile.policy).photo[0]
    assert all(unsure(p) == (first.low <= p <= first.high) for p in (0.05, 0.3, 0.7, 0.95)) == (model == CASCADE)


@pytest.mark.parametrize(
    ("model", "others", "own"),
    [
        (BUNDLED, INT8, INT8),
        (on_one_core(BUNDLED), INT8, INT8),
        (as_shipped(BUNDLED), FLOAT32, INT8),
        (CASCADE, INT8, INT8),
        (as_shipped(CASCADE), FLOAT32, INT8),
        (SMALL, TORCH, TORCH),
    ],
)
def test_the_engines_are_equal_but_for_servers_as_shipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, others: Engine, own: Engine
) -> None:
    monkeypatch.setattr("benchmarks.peers.ours.weights", "weights of {}".format)
    engine = own_profile(folder, model)[0].engine_of("backbone")
    workload = WORKLOADS[model]
    assert (workload.engine, Engine(engine.backend, engine.dtype)) == (others, own)  # type: ignore[arg-type]
    assert engine.model == f"weights of {workload.backbone}"


@pytest.mark.parametrize(("model", "gate"), [(CASCADE, None), (as_shipped(CASCADE), 0.4)])
def test_only_as_shipped_the_sign_reader_is_asked_where_stage_1_expects_text(
    folder: Path, model: str, gate: float | None
) -> None:
    profile = own_profile(folder, model)[0]
    (first, signs) = load_policy(profile.policy).photo
    assert (first.stage, signs.stage, signs.min_text_probability) == ("backbone", "signs", gate)
    assert not signs.applies(0.39) == (gate is not None) and signs.applies(0.41)


def test_this_server_as_shipped_runs_the_engine_of_its_default_profile(folder: Path) -> None:
    shipped, measured = load_profile(PROFILE), own_profile(folder, as_shipped(BUNDLED))[0]
    keys = ("backend", "dtype", "model")
    wanted, found = (
        {key: getattr(profile.engine_of("backbone"), key) for key in keys} for profile in (shipped, measured)
    )
    assert found == wanted | {"model": weights(BUNDLED)} and wanted["model"] == "bundled:efficientnet-lite2"


@pytest.mark.skipif(not has_int8_dot_products(), reason="without 8-bit dot products (VNNI) both are float32")
def test_both_engines_give_nearly_the_same_probabilities() -> None:
    photos = pictures(next(iter(SIZES)), 8)
    int8, float32 = (Classifier(model, 1) for model in (BUNDLED, as_shipped(BUNDLED)))
    thumbs = [int8.thumb(data) for data in photos]
    found, wanted = (np.array(engine.classify(thumbs)) for engine in (int8, float32))
    assert 0 < np.abs(found - wanted).mean() < 0.05
    assert found.max() - found.min() > 0.1, "not all alike"


def test_servers_on_onnx_runtime_load_no_pytorch() -> None:
    code = f"import sys; from benchmarks.peers.model import Classifier; Classifier({BUNDLED!r}, 1); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "onnxruntime" in loaded and not {"torch", "transformers"} & set(loaded)


def affinity_of_a_child() -> set[int]:
    code = "import os; print(*os.sched_getaffinity(0))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {int(each) for each in printed.split()}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_on_one_core_server_and_client_have_one_each(folder: Path) -> None:
    cores, one, every = os.sched_getaffinity(0), WORKLOADS[on_one_core(BUNDLED)], WORKLOADS[BUNDLED]
    children: list[set[int]] = []
    for place in (SERVER, CLIENT):
        with pinned(one, place):
            children.append(affinity_of_a_child())
        with pinned(every, place):
            assert os.sched_getaffinity(0) == cores
    assert os.sched_getaffinity(0) == cores
    assert [len(each) for each in children] == [1, 1] and children[0] != children[1]
    assert (count_cores(one), count_cores(every)) == (1, len(cores))
    profile, _ = own_profile(folder, on_one_core(BUNDLED), workers=1)
    assert (profile.engine_of("backbone").replicas, profile.ingress.decode_processes) == (1, 1)


def test_the_margin_leaves_out_what_a_server_takes_at_rest() -> None:
    cpu_s = {"HAProxy": 0.005, "Ingress": 1.0, "Backbone": 4.995}
    found = Saturation(Saturated([50.0], 0), took_s=4.0, cpu_s=cpu_s, memory_mib=1)
    assert (found.cpu_ms(), found.cpu_ms(rest_ms_per_s=500.0)) == (30.0, 20.0)
    assert list(found.cpu_ms_by_role().items()) == [("Backbone", 25.0), ("Ingress", 5.0)], "0.025 ms are left out"


def test_processor_time_counts_processes_that_begin_and_not_those_that_end() -> None:
    before, after = (
        {pid: Process(pid, f"ray::{role}", cpu_s) for pid, role, cpu_s in processes}
        for processes in (
            [(1, "Model", 5.0), (2, "Model", 7.0), (4, "Agent", 1.0)],
            [(1, "Model", 6.0), (3, "Model", 0.5), (4, "Agent", 1.25)],
        )
    )
    assert spent_s(before, after) == {"Model": 1.5, "Agent": 0.25}


def test_rounds_are_combined_by_their_medians() -> None:
    bare = [LoopResult(100.0, 0.1, 10.0)]

    def row(round_: int, share: float, margin: float, roles: dict[str, float]) -> Row:
        return Row(
            "FastAPI", BUNDLED, "50 kB", float(round_), [100 * share], bare, share, margin + 1, 500 + round_, round_,
            10.0, margin, cpu_ms_by_role=roles,
        )  # fmt: skip

    rounds = [row(1, 0.9, 12.0, {"web": 8.0}), row(2, 0.5, 30.0, {"web": 9.0, "late": 3.0}),
              row(3, 0.8, 14.0, {"web": 7.0, "late": 1.0})]  # fmt: skip
    found = combine_rows(rounds)
    assert (found.relative_throughput, found.marginal_cpu_ms, found.cpu_ms, found.start_s) == (0.8, 14.0, 15.0, 2.0)
    assert (found.throughputs, found.bare, found.refused) == ([90.0, 50.0, 80.0], 3 * bare, 6)
    assert (found.marginal_cpu_ms_by_round, found.memory_mib) == ([12.0, 30.0, 14.0], 502)
    assert found.cpu_ms_by_role == {"web": 8.0, "late": 1.0}
    point = Point(10.0, 100, 9.5, 9.0, 0.95, 20.0, 80.0, 3)
    curves = [Curve("FastAPI", BUNDLED, "50 kB", 10.0 * share, [], None, point, share) for share in (0.9, 0.2, 0.4)]
    middle = combine_curves(curves)
    assert (middle.goodput, middle.saturated_per_s, middle.goodput_by_round) == (0.4, 4.0, [0.9, 0.2, 0.4])
    assert combine_curves(curves[:2]).goodput == 0.2, "the lower of two"


def test_servers_are_measured_in_turn_and_then_in_reverse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measure(name: str, *_: object) -> Measured:
        asked.append(name)
        if name == "LitServe" and len(asked) < 4:
            raise RuntimeError("first line\nit does not answer")
        found = Saturation(Saturated([10.0 * len(asked)], 0), 1.0, {"web": 1.0}, 100)
        return Measured(1.0, 50.0, {"50 kB": found}, None)

    class PacedLoop:
        def __init__(self) -> None:
            self.per_s = 0.0

        def run(self, size: str, seconds: float) -> LoopResult:
            self.per_s += 10.0
            return LoopResult(self.per_s, 0.1, 10.0)

    monkeypatch.setattr(peers, "measure_server", measure)
    monkeypatch.setattr(peers, "DRAFT", tmp_path / "draft.json")
    args = Namespace(sizes=["50 kB"], seconds=1.0, servers=["FastAPI", "LitServe", "BentoML"], rounds=2, curves=[])
    run = Run(BUNDLED, {}, {})
    peers.measure_rounds(run, 2, PacedLoop(), args)  # type: ignore[arg-type]
    assert asked == ["FastAPI", "LitServe", "BentoML", "BentoML", "LitServe", "FastAPI"]
    assert run.failed == [{"server": "LitServe", "error": "it does not answer"}]
    rows = {row.server: row for row in run.rows}
    assert list(rows) == args.servers and rows["LitServe"].throughputs == [50.0], "the round that worked"
    # The loop is measured between two servers: 10 before the first, 20 after it, ...
    assert [each.per_s for each in rows["BentoML"].bare] == [20.0, 30.0, 30.0, 40.0]
    assert rows["FastAPI"].relative_throughput == round((10 / 15 + 60 / 55) / 2, 3)
    assert json.loads((tmp_path / "draft.json").read_text())["rows"]
    assert "LitServe: first line" in capsys.readouterr().out


def test_results_from_before_the_margin_was_measured_can_be_merged(tmp_path: Path) -> None:
    rows = [{"server": "FastAPI", "model": SMALL, "size": "50 kB", "start_s": 1.0, "throughputs": [50.0], "bare": [],
             "relative_throughput": 0.5, "cpu_ms": 20.0, "memory_mib": 500, "refused": 0}]  # fmt: skip
    old = {"model": SMALL, "environment": {}, "bare_per_s_by_threads": {"1": 50.0}, "rows": rows}
    (tmp_path / "peers.json").write_text(json.dumps({"runs": [old]}))
    for path in (tmp_path / "peers.json", RESULTS / EARLIER / "peers-miniature-2.json"):
        new, *kept = merge_runs(path, Run(BUNDLED, {}, {}), list(WORKLOADS))
        assert new.model == BUNDLED and SMALL in {each.model for each in kept}
    (row,) = merge_runs(tmp_path / "peers.json", Run(BUNDLED, {}, {}), list(WORKLOADS))[1].rows
    assert (row.rest_ms_per_s, row.marginal_cpu_ms) == (None, None)


def test_a_result_keeps_the_runs_of_other_models(tmp_path: Path) -> None:
    def run(model: str, date: str) -> Run:
        point = Point(10.0, 100, 9.5, 9.0, 0.95, None, None, 3)
        row = Row("FastAPI", model, "50 kB", 1.0, [50.0], [LoopResult(100.0, 0.1, 20.0)], 0.5, 20.0, 500, 0)
        return Run(model, {"date": date}, {1: 50.0}, [row], [Curve("FastAPI", model, "50 kB", 5.0, [], 1.0, point, 1)])

    out = tmp_path / "peers.json"
    for each in (run(CASCADE, "1"), run(BUNDLED, "2"), run(CASCADE, "3")):
        save_run(out, each)
    result = json.loads(out.read_text())
    assert [(each["model"], each["environment"]["date"]) for each in result["runs"]] == [(BUNDLED, "2"), (CASCADE, "3")]
    assert (result["environment"], result["runs"][0]["curves"][0]["overload"]["p50_ms"]) == ({"date": "3"}, None)
    assert out.with_suffix(".png").stat().st_size > 1000


def test_any_measurements_can_be_plotted(tmp_path: Path) -> None:
    point = Point(10.0, 100, 9.5, 9.0, 0.95, 20.0, 80.0, 3)
    result = [LoopResult(100.0, 0.1, 20.0)]
    rows = [Row(server, BUNDLED, "50 kB", 1.0, [50.0], result, 0.5, 20.0, 500, 0) for server in PEERS]
    plot(tmp_path / "all.png", rows, [Curve("FastAPI", BUNDLED, "50 kB", 50.0, [point], None, point, 0.9)])
    plot(tmp_path / "shares.png", rows, [])
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("all.png", "shares.png"))
