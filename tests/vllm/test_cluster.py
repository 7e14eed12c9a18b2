"""All four production architectures behind a real server, the language models by vLLM inside Serve replicas."""

import contextlib
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.server import own_server
from roadwork_serve.profiles.stage_kinds import STAGES
from roadwork_serve.schema import Verdict
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis.untrained import write_all
from tests.e2e.conftest import eventually
from tests.e2e.speaking import every_stage_speaks

MARK = uuid.uuid4().hex  # in the environment of all that the server starts
PHOTO = scenes.photo(7).jpeg()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("untrained")
    _, vllm = write_all(folder)
    os.environ["ROADWORK_TEST"] = MARK
    with own_server(folder / "log", str(vllm), start_s=500) as url:
        yield url


def test_every_stage_predicts(url: str) -> None:
    assert every_stage_speaks(url) == set(STAGES) - {"closeup"}


def test_an_engine_killed_under_load_is_skipped_and_restarts(url: str) -> None:
    done, verdicts = threading.Event(), list[Verdict]()
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(_keep_asking, url, done, verdicts) for _ in range(4)]
        try:
            eventually(lambda: _ask_on(clients) and any(map(_by_vllm, verdicts)), 60, "an answer by vLLM")
            for pid in _engine_processes():
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: _ask_on(clients) and verdicts[-1].degraded, 90, "a stage is missed")
            eventually(lambda: _ask_on(clients) and _whole(verdicts[-1]), 400, "the engine is back")
            assert all(verdict.degraded or _by_vllm(verdict) for verdict in verdicts)
        finally:
            done.set()
    assert every_stage_speaks(url) == set(STAGES) - {"closeup"}


def test_an_engine_ends_with_its_replica(url: str) -> None:
    """Otherwise its weights would stay on the GPU, and the next replica would find no room."""
    engines = set(_engine_processes())
    for pid in engines:
        os.kill(int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    eventually(lambda: not engines & set(_engine_processes(wanted=False)), 60, "the engine ends with its replica")
    assert engines and not engines & set(_engine_processes(wanted=False))


def _keep_asking(url: str, done: threading.Event, verdicts: list[Verdict]) -> None:
    """Send requests until stopped; every one must get a verdict."""
    while not done.is_set():
        reply = httpx.post(
            f"{url}/v1/classify?deadline_ms=60000", content=PHOTO, headers={"content-type": "image/jpeg"}, timeout=70
        )
        assert reply.status_code == 200, reply.text
        verdicts.append(Verdict.model_validate(reply.json()))


def _by_vllm(verdict: Verdict) -> bool:
    return verdict.exit.stage == "reasoner"


def _whole(verdict: Verdict) -> bool:
    return _by_vllm(verdict) and not verdict.degraded


def _engine_processes(wanted: bool = True) -> list[int]:
    """Return the vLLM engine processes of this server, identified by their titles."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"VLLM::EngineCore" in (process / "cmdline").read_bytes():
                if MARK.encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
    assert found or not wanted
    return found


def _ask_on(clients: list[Future[None]]) -> bool:
    """Check that the clients still run. Raises the error that ended one."""
    for client in clients:
        if client.done():
            client.result()
    return True
