"""Replicas that follow the load, on two GPUs that exist only for Ray."""

import asyncio
import io
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator

import httpx
import pytest
import yaml
from PIL import Image

from benchmarks.fake_models import overrides
from benchmarks.server import Server, started
from roadwork_serve.schema import Verdict
from tests.e2e.conftest import eventually
from tests.large.scaled import BUILDER

SHARES = {"dinov3": 0.25, "ocr": 0.1, "qwen3-vl": 0.65}
STAGES = {"backbone": 0.25, "vlm": 0.65}
POLICY = {
    "version": "scaled-1",
    "photo": [{"stage": "backbone", "exit": [0, 1]}, {"stage": "vlm", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "backbone", "exit": [0.5, 0.5]}],
}
ITEM_S, A_SECOND, HOLD_S = 0.3, 4.5, 30
CHANGE = re.compile(r"(?:Upscaling|Downscaling) Deployment\(name='(\w+)', app='roadwork'\) from (\d+) to (\d+)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server whose VLM takes 0.3 s per item and may have four replicas, with room for two."""
    folder = tmp_path_factory.mktemp("scaling")
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    changes = overrides({"vlm": 1000 * ITEM_S}) | {"policy": str(folder / "policy.yaml")}
    changes["stages"]["vlm"] |= {"max_batch": 1}
    changes["stages"] |= {"reasoner": None, "video": None}
    for name, share in SHARES.items():
        changes["engines"][name] |= {"device": "cuda", "num_gpus": share, "max_replicas": 4, "backend": "transformers"}
    environment = {"RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": 2, "CPU": 4})}
    args = {"profile": "mini", "overrides": changes}
    with started(folder / "log", args, environment, BUILDER, scaling={"downscale_delay_s": HOLD_S}) as server:
        yield server


def changes(server: Server) -> list[tuple[str, int, int]]:
    """Return (deployment, old, new) target replicas in order, from the log of Serve's controller."""
    logs = sorted(server.folder.glob("ray/session_latest/logs/serve/controller_*.log")) or sorted(
        server.folder.glob("session_latest/logs/serve/controller_*.log")
    )
    return [(name, int(old), int(new)) for log in logs for name, old, new in CHANGE.findall(log.read_text())]


def photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (number % 256, number // 256 % 256, 80)).save(file, "JPEG")
    return file.getvalue()


async def load(url: str, for_s: float) -> list[Verdict]:
    """Send photos at a steady rate; return the verdicts that arrived in time."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def ask(number: int) -> Verdict | None:
            kind = {"content-type": "image/jpeg"}
            reply = await client.post("/v1/classify?deadline_ms=20000", content=photo(number), headers=kind)
            assert reply.status_code in (200, 503), reply.text
            return Verdict.model_validate_json(reply.content) if reply.is_success else None

        began, tasks = time.monotonic(), list[asyncio.Task[Verdict | None]]()
        while time.monotonic() < began + for_s:
            tasks.append(asyncio.create_task(ask(len(tasks))))
            await asyncio.sleep(1 / A_SECOND)
        return [verdict for verdict in await asyncio.gather(*tasks) if verdict is not None]


async def test_replicas_follow_the_load_and_the_gpus(server: Server) -> None:
    assert changes(server) == []
    verdicts = await load(server.url, 30)
    assert ("FastVLM", 1, 2) in changes(server)
    gpus: dict[str, dict[str, float]] = defaultdict(dict)  # share of each process by GPU
    for verdict in verdicts:
        for report in verdict.stages:
            if report.model:
                gpus[report.model.split(" on ")[1]][report.model.split()[0]] = STAGES[report.stage]
    assert set(gpus) == {"0", "1"}
    assert all(list(shares.values()).count(STAGES["vlm"]) == 1 for shares in gpus.values()), "a fast VLM on each GPU"
    assert all(sum(shares.values()) <= 1 for shares in gpus.values())
    await asyncio.to_thread(eventually, lambda: ("FastVLM", 2, 1) in changes(server), 120, "one is let go")
    of_vlm = [(old, new) for name, old, new in changes(server) if name == "FastVLM"]
    assert of_vlm == [(1, 2), (2, 1)], "never more than there is room for, and no change is taken back"
