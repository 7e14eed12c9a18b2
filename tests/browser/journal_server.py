"""The console over a journal of made-up answers: the real routes without Ray and models."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.console_routes import FOLDER
from roadwork_serve.api.journal_reader import JournalReader
from roadwork_serve.api.journal_routes import journal_routes
from roadwork_serve.api.media_decoder import MediaDecoder
from roadwork_serve.api.policy_routes import policy_routes
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.api.status import task_info
from roadwork_serve.api.thumbnail import ThumbnailMaker
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.journal.record import PredictionRecord
from roadwork_serve.journal.store import Store
from roadwork_serve.media import Clip, Photo
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.task import default_task, load_task
from roadwork_serve.schema import (
    Box,
    Distribution,
    Evidence,
    Exit,
    ExitCount,
    PolicyChange,
    PolicyRevision,
    Region,
    ReplicaStats,
    RequestStats,
    StageInfo,
    StageLoad,
    StageStats,
    Stats,
    TextLine,
    Verdict,
)
from roadwork_serve.server_state import Info, PolicyState
from tests.api.test_classify_routes import FakeService
from tests.journal.made import entry, report, verdict

ENTRIES = 60
RECORDING = "GX010001.MP4"
NIGHT_S = 1_795_392_000.0  # 2026-11-23, midnight UTC
FILES = ["columbus.jpg", "minneapolis.jpg", "seoul.jpg", "country-road.jpg", "closed-lane.jpg", "workers.jpg"]
ROLLOUT = load_rollout({}, "mini")
GRID = [[0, 0, 20, 0], [0, 60, 90, 30], [0, 40, 80, 0]]


def records() -> list[PredictionRecord]:
    """Return answers one hour apart, the last at `NIGHT_S`; every tenth is a clip, and some have no file."""
    return [_record(number, random.Random(number)) for number in range(ENTRIES)]


def _record(number: int, chance: random.Random) -> PredictionRecord:
    clip = number % 10 == 5
    source = "columbus.mp4" if clip else FILES[number % len(FILES)]
    media = (FOLDER / "samples" / source).read_bytes()
    probability = min(0.997, max(0.004, round(chance.betavariate(0.5, 0.5), 4)))
    decided = probability < 0.0215 or probability > 0.79
    first = min(0.99, max(0.01, probability if decided else chance.random()))
    box = Box(x0=0.55, y0=0.4, x1=0.8, y1=0.6)
    lines = [TextLine(text="ROAD WORK AHEAD", confidence=0.9, meaning="begin", box=box, frame=2 if clip else 0)]
    frames = [0.1, 0.4, 0.8, 0.9, 0.6, 0.3] if clip else []
    region = Region(kind="cone", probability=0.93, box=Box(x0=0.25, y0=0.33, x1=0.75, y1=1))
    seen = Evidence(frame_probabilities=frames) if clip else Evidence(heat_map=GRID, regions=[region])
    times = {"queue_ms": 2.0, "preprocess_ms": 1.0, "compute_ms": 21.0, "rpc_ms": 9.0, "batch_size": 2}
    posterior = probability if decided else 0.4
    stages = [report("backbone", first, posterior=posterior, evidence=seen, model="mini:dinov3", **times)]
    if not decided:
        read = Evidence(text_lines=lines)
        more = times | {"compute_ms": 140.0}
        stages.append(report("signs", probability, posterior=probability, evidence=read, model="rapidocr", **more))
    reason = ("above_band" if probability > 0.5 else "below_band") if decided else "last_stage"
    verdict = {
        "media": "clip" if clip else "photo",
        "stages": stages,
        "exit": Exit(stage=stages[-1].stage, reason=reason),
        "policy_version": ROLLOUT.policy.version,
        "elapsed_ms": 33.0 if decided else 185.0,
    }
    features = [[chance.gauss(0, 1) for _ in range(8)]]
    return entry(
        f"e{number:02d}",
        probability,
        NIGHT_S - 3600 * (ENTRIES - 1 - number),
        verdict=verdict,
        media=None if number % 12 == 7 else media,
        filename=f"camera-{number % 3}/frame {number:03d}.{'mp4' if clip else 'jpg'}",
        features=features,
        sha256=f"{number:064x}",
    )


class CannedService(FakeService):
    """Statistics that grow with every request, and a policy that can be activated."""

    task = default_task()

    def __init__(self) -> None:
        super().__init__()
        self.counter = itertools.count(1)
        self.history = [self._revision(1, ROLLOUT)]
        self.rollouts = [ROLLOUT]

    async def stats(self) -> Stats:
        n = next(self.counter)
        swing = 10 * (n % 5)
        spread = Distribution(n=9, mean=20 + swing, p50=18 + swing, p95=40 + swing)
        quick = Distribution(n=9, mean=1, p50=1, p95=2)
        stages = [
            StageStats(
                stage=name, outcomes={"answered": 7 * n}, queue_ms=quick, preprocess_ms=quick, compute_ms=spread,
                rpc_ms=quick, batch_size=quick, tokens=0, gflops=0, gpu_seconds=0,
            )
            for name in ("backbone", "signs")
        ]  # fmt: skip
        exits = [
            ExitCount(stage="backbone", reason="above_band", verdicts=7 * n + swing),
            ExitCount(stage="signs", reason="last_stage", verdicts=3 * n),
        ]
        requests = RequestStats(
            uptime_s=2 * n, verdicts=10 * n + swing, photos=9 * n, clips=n, roadwork=4 * n, degraded=0,
            deadline_exits=0, rejected={"overloaded": n // 2, "unsupported-media": n // 3}, exits=exits,
            elapsed_ms=spread, probability=Distribution(n=9, mean=0.4, p50=0.3, p95=0.9), gflops=0, gpu_seconds=0,
            stages=stages,
        )  # fmt: skip
        load = [
            StageLoad(stage=name, up=True, queued=n % 3, in_flight=1, queue_wait_ms=1, breaker="closed")
            for name in ("backbone", "signs")
        ]
        replica = ReplicaStats(
            replica="r", in_flight=1, decoding=0, policy_version="mini-1", policy_revision=1, degradation_level=0,
            stages=load, requests=requests,
        )  # fmt: skip
        return Stats(replicas=[replica])

    def _revision(self, number: int, rollout: Rollout) -> PolicyRevision:
        return PolicyRevision(
            revision=number, version=rollout.policy.version, origin="put", author="ann", created_at="2026-11-23T00:00Z"
        )

    async def put_policy(self, rollout: Rollout, author: str) -> PolicyChange:
        self.rollouts.append(rollout)
        self.history.append(self._revision(len(self.rollouts), rollout))
        return PolicyChange(revision=len(self.rollouts), version=rollout.policy.version, replicas=1)

    async def roll_back(self, author: str) -> PolicyChange:
        return await self.put_policy(self.rollouts[-2], author)

    async def policy(self) -> PolicyState:
        rollout = self.rollouts[-1]
        version = rollout.policy.version
        return PolicyState(revision=len(self.rollouts), version=version, rollout=rollout, history=self.history)


class PotholeService(CannedService):
    """A server whose task is potholes, and whose first stage is of another package."""

    task = load_task("potholes")

    def info(self) -> Info:
        """Return what the console asks for."""
        stage = StageInfo(stage="darkness", model="darkness-1", miniature=False, up=True)
        return super().info().model_copy(update={"task": task_info(self.task), "stages": [stage]})

    async def classify_media(self, data: bytes, deadline_s: float, request_id: str, context: RequestContext) -> Verdict:
        """Return a pothole."""
        return verdict("p-new", 0.93, request_id=request_id, **pothole_verdict(0.93))


def pothole_verdict(probability: float) -> dict[str, Any]:
    """Return the fields of a verdict by a stage named `darkness`."""
    stage = report("darkness", probability, posterior=probability, model="darkness-1", compute_ms=2.0)
    return {
        "label": "pothole" if probability > 0.5 else "none",
        "positive": probability > 0.5,
        "stages": [stage],
        "exit": Exit(stage="darkness", reason="above_band" if probability > 0.5 else "below_band"),
    }


def pothole_records() -> list[PredictionRecord]:
    """Return four answers of the task, the last three a pothole."""
    media = (FOLDER / "samples" / FILES[0]).read_bytes()
    return [
        entry(f"p{number}", each, NIGHT_S + number, verdict=pothole_verdict(each), media=media,
              filename=f"lane {number}.jpg", sha256=f"{number:064x}")
        for number, each in enumerate((0.06, 0.91, 0.97, 0.82))
    ]  # fmt: skip


def drive_records() -> list[PredictionRecord]:
    """Return the frames of a recording, two a second, with road work from second 20 to 30; and one of another."""
    media = (FOLDER / "samples" / FILES[0]).read_bytes()
    times = [(RECORDING, number / 2, 0.95 if 40 <= number < 60 else 0.03) for number in range(240)]
    return [
        entry(f"d{number:03d}", each, NIGHT_S + number, media=media, filename=f"{name} {time_s:.1f}s.jpg",
              sha256=f"{number:064x}")
        for number, (name, time_s, each) in enumerate([*times, (f"{RECORDING}.old", 3.0, 0.99)])
    ]  # fmt: skip


def journal_app(
    folder: Path,
    auth: Authenticator,
    service: CannedService | None = None,
    made: Sequence[PredictionRecord] | None = None,
) -> FastAPI:
    """Return the application over a journal in a folder."""
    url, media = f"sqlite:///{folder / 'journal.db'}", folder / "media"
    store = Store.open(url, media_folder=media)
    store.commit(records() if made is None else made)
    store.close()
    service = service or CannedService()
    reader = JournalReader(lambda: Store.open(url, media_folder=media), service.task)
    decoders: list[MediaDecoder] = []

    async def read(data: bytes, deadline_s: float) -> Photo | Clip:
        if not decoders:  # it needs the running loop
            decoders.append(MediaDecoder(load_profile("mini")))
        return await decoders[0].read(data, deadline_s)

    async def stop() -> None:
        for decoder in decoders:
            await decoder.aclose()
        reader.close()

    app = http_app(service, auth, on_stop=stop)
    journal = journal_routes(reader, lambda: ROLLOUT, lambda _: None, auth, ThumbnailMaker(read).make)
    for routes in (*policy_routes(service, auth), journal):
        app.include_router(routes)
    return app
