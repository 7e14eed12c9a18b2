"""The journal of a server that is killed under load, process by process and as a whole."""

import io
import os
import random
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks import fake_models
from benchmarks.chaos.processes import kill, pids
from benchmarks.server import journal_in, started
from roadwork_serve.journal.store import Store
from roadwork_serve.schema import Verdict
from tests.e2e.conftest import eventually

REQUESTS, SERVERS, CLIENTS = 400, 2, 12
VICTIMS = ("Journal", "Ingress")  # on each server, before all of it is killed


class Clients:
    """Threads that send requests until enough are answered. answered: ids of the received verdicts by request id."""

    def __init__(self) -> None:
        self.answered: dict[str, str] = {}
        self.broken = 0
        self.stopped = threading.Event()
        self.url: str | None = None
        self._body, self._next, self._turn, self._pause = grey(), 0, threading.Lock(), threading.Event()

    def ask(self) -> None:
        """Run one client. Every attempt has its own id, because an interrupted request may have been answered."""
        with httpx.Client(timeout=20) as client:
            while len(self.answered) < REQUESTS and not self.stopped.is_set():
                with self._turn:
                    self._next += 1
                    name = f"request-{self._next}"
                answer_id = None if self.url is None else self._answer(client, name)
                if answer_id is None:
                    self.broken += 1
                    self._pause.wait(0.05)  # a process has been killed
                else:
                    self.answered[name] = answer_id

    def _answer(self, client: httpx.Client, name: str) -> str | None:
        try:
            reply = client.post(f"{self.url}/v1/classify", content=self._body, headers={"x-request-id": name})
        except httpx.TransportError:
            return None
        return Verdict.model_validate_json(reply.content).answer_id if reply.status_code == 200 else None


def grey() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(out, "JPEG")
    return out.getvalue()


def journaled(folder: Path) -> Counter[tuple[str, str]]:
    """Return (request id, answer id) of every record."""
    store = Store.open(journal_in(folder)["url"])
    try:
        return Counter((case.prediction.verdict.request_id, case.prediction.id) for case in store.find())
    finally:
        store.close()


@pytest.mark.timeout(600)
def test_every_verdict_is_in_the_journal_once_after_processes_are_killed(tmp_path: Path) -> None:
    overrides = fake_models.overrides({}, ingress_replicas=2) | {"journal": journal_in(tmp_path)}
    args = {"profile": "mini", "overrides": overrides}
    dice, clients, killed = random.Random(), Clients(), Counter[str]()
    with ThreadPoolExecutor(CLIENTS) as pool, ExitStack() as stack:
        stack.callback(clients.stopped.set)  # else the pool would wait for ever after a failure
        asking = [pool.submit(clients.ask) for _ in range(CLIENTS)]
        for number in range(SERVERS):
            begun, share = len(clients.answered), REQUESTS / SERVERS
            with started(tmp_path / f"server-{number}.log", args, builder=fake_models.BUILDER) as server:
                clients.url = server.url
                for at, victim in enumerate(VICTIMS):
                    goal = begun + share * (at + dice.uniform(0.2, 0.9)) / (len(VICTIMS) + 1)
                    eventually(lambda goal=goal: len(clients.answered) >= goal, 120, "more answers")
                    # It may have been killed just now.
                    eventually(lambda server=server, victim=victim: pids(server, victim), 60, f"{victim} runs")
                    kill(server, victim)
                    killed[victim] += 1
                goal = min(REQUESTS, begun + share)
                eventually(lambda goal=goal: len(clients.answered) >= goal, 120, "this server's share")
                if number < SERVERS - 1:
                    os.killpg(server.pid, signal.SIGKILL)  # all of it at once, while it answers
                    killed["server"] += 1
                    continue
                for client in asking:
                    client.result(60)
                wanted = set(clients.answered.items())
                eventually(lambda wanted=wanted: not wanted - set(journaled(tmp_path)), 60, "all is in the journal")
    found = journaled(tmp_path)
    requests = Counter(request for request, _ in found)
    assert len(clients.answered) >= REQUESTS and clients.broken > 0
    assert killed == {"Journal": 2, "Ingress": 2, "server": 1}
    assert [name for name, answer_id in clients.answered.items() if found[name, answer_id] != 1] == []
    assert [name for name in clients.answered if requests[name] != 1] == []
