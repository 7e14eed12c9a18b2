"""Two ingress replicas behind one proxy: policies swapped under load, experiments, and what hang-ups leave behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray import serve

from benchmarks.server import journal_in
from deployments.app import build_app
from roadwork_serve.api.api_keys import new_key
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.store import Store
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.schema import PolicyChange, ReplicaStats, Stats, Verdict
from roadwork_serve.server_state import PolicyState
from tests.e2e.conftest import POLICY, STAGES, Cluster, eventually
from tests.e2e.fakes import open_fakes
from tests.e2e.test_cluster import GREY, WHITE
from tests.e2e.test_openapi import CHECKS, NO_OTHER_KEYS, hold_to_its_word

SLOTS = 128  # of each ingress replica at the fast VLM
PATIENT_S = 120  # for hundreds of requests to arrive on a busy machine, before what is tested begins


@dataclass(frozen=True)
class Pair:
    """A running pair. key: an admin's. held: a file with a byte per item in the fast VLM's engine. journal: its URL.

    asker: keeps its connection open, so that polling takes little CPU time from the server.
    """

    url: str
    key: str
    held: Path
    journal: str
    asker: httpx.Client

    def client(self, **settings: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"X-API-Key": self.key}, timeout=PATIENT_S, **settings)


@pytest.fixture(scope="module")
def pair(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    secret, key = new_key("ann", "admin")
    (folder / "keys.yaml").write_text(key.entry())
    held = folder / "held"
    held.touch()
    engines: dict[str, Any] = {name: {"num_cpus": 0.1} for name in load_profile("mini").engines}
    stages: dict[str, Any] = {stage: {} for stage in STAGES}
    stages["vlm"] = {"options": {"held": str(held)}, "max_batch": 1, "slots": SLOTS, "timeout_s": PATIENT_S}
    ingress = {"num_cpus": 0.1, "replicas": 2, "decode_processes": 1, "keys_file": str(folder / "keys.yaml")}
    overrides = {"ingress": ingress, "journal": journal_in(folder), "engines": engines, "stages": stages}
    profile = load_profile("mini", overrides)
    serve.run(build_app(profile, open_fakes), name="pair", route_prefix="/pair", blocking=False)
    url = f"{cluster.url}/pair"
    try:
        with httpx.Client(base_url=url, headers={"X-API-Key": secret}, timeout=10) as asker:
            running = Pair(url, secret, held, journal_in(folder)["url"], asker)
            eventually(lambda: len(replicas(running)) == 2, 60, "both ingress replicas answer")
            yield running
    finally:
        serve.delete("pair")


def replicas(pair: Pair) -> list[ReplicaStats]:
    """Return the load of each ingress replica that reports it in time."""
    reply = pair.asker.get("/v1/stats")
    return Stats.model_validate_json(reply.content).replicas if reply.is_success else []


def policy(version: str) -> dict[str, Any]:
    return POLICY | {"version": version}


async def put(client: httpx.AsyncClient, body: object) -> PolicyChange:
    reply = await client.put("/v1/policy", json=body)
    assert reply.status_code == 200, reply.text
    return PolicyChange.model_validate_json(reply.content)


@asynccontextmanager
async def load(client: httpx.AsyncClient, askers: int = 6) -> AsyncIterator[list[tuple[float, float, Verdict]]]:
    """Collect verdicts with the times of their requests and responses."""
    seen: list[tuple[float, float, Verdict]] = []
    stop = False

    async def ask() -> None:
        while not stop:
            began = time.monotonic()
            reply = await client.post("/v1/classify", content=WHITE, headers={"content-type": "image/jpeg"})
            assert reply.status_code == 200, reply.text
            seen.append((began, time.monotonic(), Verdict.model_validate_json(reply.content)))

    async with asyncio.TaskGroup() as group:
        for _ in range(askers):
            group.create_task(ask())
        try:
            yield seen
        finally:
            stop = True


async def grown(seen: list[Any], more: int) -> None:
    """Wait until this many further verdicts have arrived."""
    target = len(seen) + more
    async with asyncio.timeout(30):
        while len(seen) < target:  # noqa: ASYNC110 - what grows it is the load itself
            await asyncio.sleep(0.01)


async def test_every_verdict_has_the_policy_version_active_at_its_request(pair: Pair):
    """Replace the policy ten times under load; requests between two changes must get the version of the first."""
    swaps: list[tuple[float, float, str]] = []
    async with pair.client() as client, load(client) as seen:
        await grown(seen, 10)
        for number in range(10):
            began = time.monotonic()
            change = await put(client, policy(f"swap-{number}"))
            swaps.append((began, time.monotonic(), f"swap-{number}"))
            assert (change.version, change.replicas) == (f"swap-{number}", 2)
            await grown(seen, 12)
    in_time = 0
    for asked, answered, verdict in seen:
        before = [version for _, done, version in swaps if done <= asked]
        during = [version for began, done, version in swaps if began <= answered and done > asked]
        assert verdict.policy_version in [*before[-1:], *during] or not before
        in_time += bool(before) and not during and verdict.policy_version == before[-1]
    assert in_time > 50
    assert {"swap-0", "swap-9"} <= {verdict.policy_version for *_, verdict in seen}


async def test_a_rollback_restores_the_previous_policy_on_both_replicas(pair: Pair):
    async with pair.client() as client:
        await put(client, policy("one"))
        await put(client, policy("two"))
        reply = await client.post("/v1/policy/rollback")
        change = PolicyChange.model_validate_json(reply.content)
        assert (change.version, change.replicas) == ("one", 2)
        assert {load.policy_version for load in replicas(pair)} == {"one"}
        state = PolicyState.model_validate_json((await client.get("/v1/policy")).content)
        assert [revision.version for revision in state.history][-3:] == ["one", "two", "one"]
        assert state.history[-1].origin == "rollback"
        assert state.history[-1].rollback_of == state.history[-3].revision
        assert state.history[-1].author == "ann"


async def test_an_invalid_policy_is_rejected_and_the_old_one_stays_active(pair: Pair):
    async with pair.client() as client:
        change = await put(client, policy("good"))
        for bad, status in (
            ({"version": "bad"}, 422),
            (policy("bad") | {"photo": []}, 422),
            (policy("good") | {"prior": 0.3}, 409),
        ):
            assert (await client.put("/v1/policy", json=bad)).status_code == status
        stats = replicas(pair)
        assert {(each.policy_version, each.policy_revision) for each in stats} == {("good", change.revision)}
        assert (await client.put("/v1/policy", json=policy("x"), headers={"X-API-Key": "rw_no"})).status_code == 401


async def test_an_ab_test_assigns_a_key_to_the_same_arm_on_both_replicas(pair: Pair):
    async with pair.client() as client:
        await put(client, {"policy": policy("arm-a"), "split": {"policy": policy("arm-b"), "share": 0.5}})
        for camera in range(6):
            headers = {"content-type": "image/jpeg", "X-Request-Key": f"camera-{camera}"}
            replies = [await client.post("/v1/classify", content=WHITE, headers=headers) for _ in range(6)]
            verdicts = [Verdict.model_validate_json(reply.content) for reply in replies]
            assert len({(verdict.arm, verdict.policy_version) for verdict in verdicts}) == 1
            assert verdicts[0].policy_version == f"arm-{verdicts[0].arm}"


async def test_a_shadow_is_counted_and_changes_no_verdict(pair: Pair):
    steps = [{"stage": stage, "exit": [0.0, 1.0]} for stage in ("backbone", "signs")]
    async with pair.client() as client:
        trial = {"version": "trial-1", "photo": steps, "clip": steps[:1]}
        await put(
            client, {"policy": policy("shadowed"), "shadow": {"policy": trial, "share": 1.0, "max_concurrent": 4}}
        )
        for _ in range(10):
            reply = await client.post("/v1/classify", content=WHITE, headers={"content-type": "image/jpeg"})
            verdict = Verdict.model_validate_json(reply.content)
            assert [report.stage for report in verdict.stages] == ["backbone"]

        def judged() -> bool:
            tallies = [load.shadow for load in replicas(pair) if load.shadow]
            return sum(tally.compared for tally in tallies) >= 5 and all(t.agreed == t.compared for t in tallies)

        await asyncio.to_thread(eventually, judged, 20, "the shadow has judged")


def all_in(pair: Pair, of: Callable[[ReplicaStats], int]) -> int | None:
    """Return the sum over both replicas; None if one of them is too busy to report."""
    found = replicas(pair)
    return sum(of(load) for load in found) if len({load.replica for load in found}) == 2 else None


def at_work(stats: ReplicaStats) -> int:
    return stats.in_flight + stats.decoding + sum(stage.queued + stage.in_flight for stage in stats.stages)


def at_the_vlm(load: ReplicaStats) -> int:
    (stage,) = (stage for stage in load.stages if stage.stage == "vlm")
    return stage.queued + stage.in_flight


async def hang_up_on(pair: Pair, count: int) -> float:
    """Return the seconds from the last hang-up until no work is left in the ingress replicas and the engine."""

    async def hold(client: httpx.AsyncClient, number: int) -> None:
        headers = {"content-type": "image/jpeg", "X-Request-Id": f"held-{number}"}
        for pause_s in repeat(0.1):  # a rejected request is repeated
            reply = await client.post(f"/v1/classify?deadline_ms={1000 * PATIENT_S}", content=GREY, headers=headers)
            if reply.status_code != 503:
                return
            await asyncio.sleep(pause_s)

    client = pair.client(limits=httpx.Limits(max_connections=count))
    asking = [asyncio.create_task(hold(client, number)) for number in range(count)]
    try:
        arrived = partial(eventually, lambda: all_in(pair, at_the_vlm) == count, PATIENT_S, "all are at the fast VLM")
        await asyncio.to_thread(arrived)
        assert pair.held.stat().st_size > min(count, 2 * SLOTS) / 2, "the engine holds those of both replicas"
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await client.aclose()
    began = time.monotonic()
    while pair.held.stat().st_size or await asyncio.to_thread(all_in, pair, at_work) != 0:
        assert time.monotonic() - began < 20, "work is left"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_an_audited_item_is_in_the_journal_with_predictions_of_every_stage(pair: Pair):
    async with pair.client() as client:
        await put(client, {"policy": policy("audited"), "audit": {"share": 1.0}})
        reply = await client.post("/v1/classify", content=WHITE, headers={"X-Request-Key": "camera"})
        verdict = Verdict.model_validate_json(reply.content)
        assert (verdict.audit_rate, verdict.exit.stage) == (1.0, "backbone")
        store = Store.open(pair.journal)

        def found() -> JournalRow | None:
            found = store.find(Filter(policy_version="audited"))
            cases = [case for case in found if case.prediction.id == verdict.answer_id]
            return cases[0] if cases and cases[0].audit is not None else None

        case = eventually(found, 20, "the audit is in the journal")
        store.close()
        await put(client, policy("after the audit"))
    assert {report.stage for report in case.audit or ()} == {"signs", "vlm", "reasoner"}
    assert (case.prediction.caller, case.prediction.key, case.prediction.origin) == ("ann", "camera", "http")
    assert case.prediction.verdict == verdict


async def test_two_hundred_hang_ups_leave_no_work_behind_after_a_second(pair: Pair):
    """All requests are in the engine. The fastest of five rounds counts, because other processes share the cores."""
    async with pair.client() as client:
        await put(client, policy("hang-ups"))
    took_s: list[float] = []
    while len(took_s) < 5 and min(took_s, default=9.0) >= 1:
        took_s.append(await hang_up_on(pair, 200))
    assert min(took_s) < 1, took_s


async def test_hang_ups_leave_nothing_in_the_queues_before_a_full_engine(pair: Pair):
    async with pair.client() as client:
        await put(client, policy("hang-ups of many"))
    await hang_up_on(pair, 2 * SLOTS + 64)
    assert await asyncio.to_thread(all_in, pair, at_work) == 0


async def test_admin_routes_conform_to_openapi(pair: Pair, tmp_path: Path):
    (checks := tmp_path / "schemathesis.toml").write_text(CHECKS)
    key = f"--header=X-API-Key: {pair.key}"
    options = ("--include-path-regex=policy|stats", key, *NO_OTHER_KEYS)
    output = await asyncio.to_thread(lambda: hold_to_its_word(pair.url, checks, *options, phases="examples,fuzzing"))
    assert "Tested: 5" in output
    async with pair.client() as client:
        await put(client, policy("after-all"))
