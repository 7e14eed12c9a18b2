"""Tests of the comparison of servers: load generation and results."""

import asyncio
import itertools
import json
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from benchmarks.peers.__main__ import save_run
from benchmarks.peers.arguments import Arguments
from benchmarks.peers.bare import LoopResult
from benchmarks.peers.load import Load, Point, _rate
from benchmarks.peers.model import BUNDLED, CASCADE, WORKLOADS, unsure
from benchmarks.peers.ours import settings
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.plot import plot
from benchmarks.peers.results import Curve, Row, Run
from benchmarks.peers.servers import PEERS, TRITON_PATH, RunningServer
from deployments.app import Args
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.profiles.load import load_profile

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
    assert WORKLOADS[BUNDLED].clients(2, per_s=40.0) == 10
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
        ("roadwork-serve, fast", "last", True, False),
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


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("model", [BUNDLED, CASCADE])
def test_this_server_does_the_same_work_as_the_others(tmp_path: Path, model: str, fast: bool) -> None:

    settings(tmp_path, Arguments(8123, model, 2, 1, 0.5, 40), fast)

    config = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    args = Args(**config["applications"][0]["args"])
    profile = load_profile(args.profile, args.overrides)
    assert set(profile.stages) == ({"backbone", "signs"} if model == CASCADE else {"backbone"})
    # Stage 1 shares its cores with the second stage, where there is one.
    replicas = {stage: profile.engine_of(stage).replicas for stage in profile.stages}
    assert replicas == ({"backbone": 1, "signs": 2} if model == CASCADE else {"backbone": 2})
    assert {profile.engine_of(stage).threads for stage in profile.stages} == {1}
    assert (profile.journal.enabled, "logging_config" in config) == (not fast, fast)
    first = load_policy(profile.policy).photo[0]
    assert all(unsure(p) == (first.low <= p <= first.high) for p in (0.05, 0.3, 0.7, 0.95)) == (model == CASCADE)


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
