"""`serve deploy` under load: another policy, and another version of the code, while requests are in flight."""

import asyncio
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.chaos.plan import File
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.schema import Verdict
from tests.e2e.conftest import POLICY, STAGES, eventually
from tests.e2e.test_cluster import GREY
from tests.e2e.test_journal import journaled
from tests.large.crowd import Crowd
from tests.large.nodes import Nodes, nodes

PHOTO = File("grey.jpg", "image/jpeg", GREY, "still")
REPLACED = ("Ingress", "Backbone", "SignReader", "Reasoner")
CLIENTS, DEADLINE_S, GRACE_S = 4, 20.0, 10.0


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def server(gate: Path) -> Iterator[Nodes]:
    """Yield one node with one replica of everything, where an update is most visible."""
    args = {"profile": "mini", "overrides": release("first", gate)}
    with nodes(args, "tests.e2e.fakes:build", cpus=4) as running:
        running.config["applications"][0]["deployments"][0]["user_config"] = {"policy": POLICY}
        running.deploy()
        eventually(running.ready, 120, "the application runs")
        yield running


def release(name: str, gate: Path, **vlm: str) -> dict[str, Any]:
    """Return a version of the application, recognizable by the model name of its stages.

    gate: a file without which the reasoner blocks on requests whose id begins with "held"; the ids it was given
    are in a file beside it. vlm: options of the fast VLM.
    """
    options = {"gate": str(gate), "journal": str(gate.with_name("given"))}
    return {
        "ingress": {"num_cpus": 0.1, "decode_processes": 1},
        "engines": {engine: {"num_cpus": 0.1, "model": name} for engine in load_profile("mini").engines},
        "stages": {stage: {} for stage in STAGES} | {"reasoner": {"options": options}, "vlm": {"options": vlm}},
    }


def models(verdict: Verdict) -> set[str | None]:
    return {report.model for report in verdict.stages}


async def deployed_under_load(server: Nodes) -> list[Verdict]:
    """Return the verdicts around a `serve deploy`, in order of arrival.

    Every request gets exactly its own verdict, which is in the journal once.
    """
    before, crowd = journaled(server.folder), Crowd(PHOTO, DEADLINE_S, GRACE_S)
    async with crowd.asking([server.head.url], CLIENTS):
        await crowd.until(40)
        await asyncio.to_thread(server.deploy)
        await asyncio.to_thread(eventually, server.settled, 120, "what was deployed runs")
        await crowd.until(40)
    assert crowd.count("answered") == crowd.sent, crowd.account()
    verdicts = [asked.verdict for asked in crowd.asked if asked.verdict]
    kept = {(verdict.request_id, verdict.answer_id): 1 for verdict in verdicts}
    await asyncio.to_thread(
        eventually, lambda: journaled(server.folder) - before == kept, 30, "the journal has each once"
    )
    return verdicts


async def test_another_policy_is_swapped_in_place(server: Nodes) -> None:
    pids = server.pids()
    server.config["applications"][0]["deployments"][0]["user_config"] = {"policy": POLICY | {"version": "test-2"}}
    verdicts = await deployed_under_load(server)
    versions = [version for version, _ in groupby(verdict.policy_version for verdict in verdicts)]
    assert versions[0] == "test-1" and versions[-1] == "test-2" and set(versions) == {"test-1", "test-2"}
    assert {model for verdict in verdicts for model in models(verdict)} == {"first"}
    assert server.pids() == pids, "nothing was started anew"


def change(server: Nodes, to: str, gate: Path, **vlm: str) -> None:
    application = server.config["applications"][0]
    application["args"]["overrides"] |= release(to, gate, **vlm)
    application["runtime_env"] = {"env_vars": {"ROADWORK_RELEASE": to}}


async def test_another_version_of_the_code_replaces_every_process(server: Nodes, gate: Path) -> None:
    pids = server.pids()
    change(server, "second", gate)
    verdicts = await deployed_under_load(server)
    assert models(verdicts[0]) == {"first"} and models(verdicts[-1]) == {"second"}
    assert {model for verdict in verdicts for model in models(verdict)} == {"first", "second"}
    assert all(not set(pids[name]) & set(each) for name, each in server.pids().items())


async def test_the_old_version_finishes_its_requests_and_serves_until_the_new_one_is_loaded(
    server: Nodes, gate: Path
) -> None:
    """The reasoner holds a request while it is replaced; the new fast VLM does not load before the gate is open."""

    def swapped() -> bool:
        now = server.pids()
        return all(now.get(name) and not set(pids[name]) & set(now[name]) for name in REPLACED)

    pids, given = server.pids(), gate.with_name("given")
    change(server, "third", gate, model=str(gate))
    async with httpx.AsyncClient(base_url=server.head.url, timeout=DEADLINE_S + GRACE_S) as client:

        async def ask(name: str) -> Verdict:
            headers = {"content-type": PHOTO.mime, "x-request-id": name}
            reply = await client.post("/v1/classify", content=PHOTO.data, headers=headers)
            assert reply.status_code == 200, reply.text
            return Verdict.model_validate_json(reply.content)

        waiting = asyncio.create_task(ask("held"))
        await asyncio.to_thread(eventually, lambda: "held" in given.read_text(), 10, "the reasoner has it")
        await asyncio.to_thread(server.deploy)
        await asyncio.to_thread(eventually, swapped, 60, "another ingress and another reasoner run")
        after = await ask("after")
        await asyncio.to_thread(gate.touch)
        answer = await waiting
    assert not answer.degraded and answer.exit.stage == "reasoner" and "second" in models(answer)
    spoke = {report.stage: report.model for report in after.stages}
    assert not after.degraded
    assert spoke == {"backbone": "third", "signs": "third", "vlm": "second", "reasoner": "third"}
