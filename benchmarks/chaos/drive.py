"""Runs a storm: capacity first, then each load with its calm and its faults."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.chaos.api import Api
from benchmarks.chaos.checks import SLACK_S, Told
from benchmarks.chaos.client import Client
from benchmarks.chaos.clock import Clock
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.figures import Span, phase_figures
from benchmarks.chaos.outcomes import Record
from benchmarks.chaos.plan import File, Load, Plan, Shot, good_files, shots
from benchmarks.server import Server

CAPACITY = "capacity"
_WARM_SHARE = 0.25  # of the time in which capacity is measured, left out: caches and threads warm up
_LEFT_S = 1.0


@dataclass(frozen=True, slots=True)
class Storm:
    """What came of one. capacity_per_s: answers within their deadline, of the closed loop."""

    told: Told
    spans: Sequence[Span]
    capacity_per_s: float


class Driver:
    """One storm over one server. tell: takes a line of what happens."""

    def __init__(self, plan: Plan, seed: int, files: Sequence[File], tell: Callable[[str], None]) -> None:
        self._plan, self._seed, self._files, self._tell = plan, seed, files, tell
        self._clock = Clock()
        self._records: list[Record] = []
        self._spans: list[Span] = []
        self._phase = CAPACITY

    async def run(self, server: Server, key: str, replicas: int) -> Storm:
        """Everything of the plan against a server with so many ingress replicas. key: an admin's."""
        plan = self._plan
        watching = asyncio.create_task(self._clock.watch())
        try:
            async with AsyncExitStack() as stack:
                api = await stack.enter_async_context(Api(server.url, key))
                faults = Faults(server, api, self._clock, await api.policy(), replicas, plan.recover_s, self._say)
                client = await stack.enter_async_context(
                    Client(server.url, key, self._clock, plan.deadline_ms, plan.grace_s, faults.disturbed)
                )
                await faults.whole()
                capacity = await self._capacity(client)
                for number, load in enumerate(plan.loads, 1):
                    await self._load(
                        client, faults, load, shots(self._seed + number, load.times * capacity, self._files)
                    )
                leftovers = await api.held(replicas, _LEFT_S)
        finally:
            watching.cancel()
        told = Told(
            sent=client.sent,
            records=self._records,
            phases=[phase_figures(span, self._records, SLACK_S) for span in self._spans],
            kills=faults.kills,
            reigns=faults.reigns,
            changes=faults.changes,
            wanted_changes=plan.count("swap") + plan.count("rollback"),
            leftovers=leftovers,
            replicas=replicas,
        )
        return Storm(told, self._spans, capacity)

    async def _capacity(self, client: Client) -> float:
        """Answers within their deadline a second, to clients that each send the next file when they have an answer."""
        files = good_files(self._seed, self._files)
        with self._span(CAPACITY, ramp_s=_WARM_SHARE * self._plan.capacity_s):
            end_s = self._clock.now_s() + self._plan.capacity_s
            each = (self._ask_until(end_s, client, files) for _ in range(self._plan.clients))
            await asyncio.gather(*each)
        capacity = phase_figures(self._spans[-1], self._records, SLACK_S).goodput_per_s
        self._say(f"capacity: {capacity:.1f} a second")
        return capacity

    async def _ask_until(self, end_s: float, client: Client, files: Iterator[File]) -> None:
        while self._clock.now_s() < end_s:
            self._records.append(await client.follow(next(files), CAPACITY))

    async def _load(self, client: Client, faults: Faults, load: Load, coming: Iterator[Shot]) -> None:
        """Run a calm phase and one with faults, without a pause, until every request has ended."""
        self._phase = load.calm
        pouring = asyncio.create_task(self._pour(client, coming))
        with self._span(load.calm, load.times, self._plan.ramp_s):
            await asyncio.sleep(load.calm_s)
        self._phase = load.faults
        with self._span(load.faults, load.times):
            for step in load.steps:
                await faults.do(step, load.faults)
                if step == "recover":
                    await asyncio.sleep(self._plan.pause_s)
        pouring.cancel()
        await asyncio.gather(*await pouring)

    async def _pour(self, client: Client, coming: Iterator[Shot]) -> list[asyncio.Task[None]]:
        """Send each request when it is due, whatever has become of those before; cancelled, return all there were."""
        began_s = self._clock.now_s()
        following: list[asyncio.Task[None]] = []
        try:
            for shot in coming:
                await asyncio.sleep(max(0.0, began_s + shot.at_s - self._clock.now_s()))
                following.append(asyncio.create_task(self._record(client, shot.file)))
        except asyncio.CancelledError:
            pass
        return following

    async def _record(self, client: Client, file: File) -> None:
        self._records.append(await client.follow(file, self._phase))

    @contextmanager
    def _span(self, name: str, times: float = 0.0, ramp_s: float = 0.0) -> Iterator[None]:
        """Yield a phase, with what the load generator took of a core and how late it was meanwhile."""
        began_s, cpu_s = self._clock.now_s(), time.process_time()
        self._say(name)
        yield
        ended_s = self._clock.now_s()
        own_cpu = (time.process_time() - cpu_s) / (ended_s - began_s)
        lag_ms = 1000 * self._clock.lag_s(began_s, ended_s)
        self._spans.append(Span(name, times, began_s, ended_s, ramp_s, own_cpu, lag_ms))

    def _say(self, line: str) -> None:
        self._tell(f"{self._clock.now_s():6.1f} s  {line}")
