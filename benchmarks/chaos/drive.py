"""Runs the plan: the capacity first, then each load with a calm phase and one with faults."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.chaos.api import Api
from benchmarks.chaos.checks import SLACK_S, Observations
from benchmarks.chaos.client import Client
from benchmarks.chaos.clock import Clock
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.figures import Span, phase_figures
from benchmarks.chaos.outcomes import Record
from benchmarks.chaos.plan import Arrival, File, Load, Plan, arrivals, good_files
from benchmarks.server import Server

CAPACITY = "capacity"
_WARM_SHARE = 0.25  # of the capacity measurement is excluded as a warm-up
_DRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class ChaosRun:
    """The results of a run."""

    observations: Observations
    spans: Sequence[Span]
    #: Goodput of the closed loop.
    capacity_per_s: float


class Driver:
    """Runs a plan against a server. `log` receives progress messages."""

    def __init__(self, plan: Plan, seed: int, files: Sequence[File], log: Callable[[str], None]) -> None:
        self._plan, self._seed, self._files, self._log_line = plan, seed, files, log
        self._clock = Clock()
        self._records: list[Record] = []
        self._spans: list[Span] = []
        self._phase = CAPACITY

    async def run(self, server: Server, key: str, replicas: int) -> ChaosRun:
        """Run the plan against a server with this many ingress replicas. The key must be an admin key."""
        plan = self._plan
        watching = asyncio.create_task(self._clock.watch())
        try:
            async with AsyncExitStack() as stack:
                api = await stack.enter_async_context(Api(server.url, key))
                faults = Faults(server, api, self._clock, await api.policy(), replicas, plan.recover_s, self._log)
                client = await stack.enter_async_context(
                    Client(server.url, key, self._clock, plan.deadline_ms, plan.grace_s, faults.recently_killed)
                )
                await faults.wait_until_healthy()
                capacity = await self._capacity(client)
                for number, load in enumerate(plan.loads, 1):
                    await self._load(
                        client, faults, load, arrivals(self._seed + number, load.factor * capacity, self._files)
                    )
                leftovers = await api.remaining_work(replicas, _DRAIN_S)
        finally:
            watching.cancel()
        observations = Observations(
            sent=client.sent,
            records=self._records,
            phases=[phase_figures(span, self._records, SLACK_S) for span in self._spans],
            kills=faults.kills,
            periods=faults.periods,
            changes=faults.changes,
            planned_changes=plan.count("swap") + plan.count("rollback"),
            leftovers=leftovers,
            replicas=replicas,
        )
        return ChaosRun(observations, self._spans, capacity)

    async def _capacity(self, client: Client) -> float:
        """Return the goodput of closed-loop clients per second."""
        files = good_files(self._seed, self._files)
        with self._span(CAPACITY, ramp_s=_WARM_SHARE * self._plan.capacity_s):
            end_s = self._clock.now_s() + self._plan.capacity_s
            workers = (self._ask_until(end_s, client, files) for _ in range(self._plan.clients))
            await asyncio.gather(*workers)
        capacity = phase_figures(self._spans[-1], self._records, SLACK_S).goodput_per_s
        self._log(f"capacity: {capacity:.1f} per second")
        return capacity

    async def _ask_until(self, end_s: float, client: Client, files: Iterator[File]) -> None:
        while self._clock.now_s() < end_s:
            self._records.append(await client.send(next(files), CAPACITY))

    async def _load(self, client: Client, faults: Faults, load: Load, upcoming: Iterator[Arrival]) -> None:
        """Run a calm phase and one with faults, without a pause, until every request has ended."""
        self._phase = load.calm
        sending = asyncio.create_task(self._send_arrivals(client, upcoming))
        with self._span(load.calm, load.factor, self._plan.ramp_s):
            await asyncio.sleep(load.calm_s)
        self._phase = load.faults
        with self._span(load.faults, load.factor):
            for step in load.steps:
                await faults.run_step(step, load.faults)
                if step == "recover":
                    await asyncio.sleep(self._plan.pause_s)
        sending.cancel()
        await asyncio.gather(*await sending)

    async def _send_arrivals(self, client: Client, upcoming: Iterator[Arrival]) -> list[asyncio.Task[None]]:
        """Send each request when it is due, without waiting for earlier ones. When cancelled, return all tasks."""
        began_s = self._clock.now_s()
        tasks: list[asyncio.Task[None]] = []
        try:
            for arrival in upcoming:
                await asyncio.sleep(max(0.0, began_s + arrival.at_s - self._clock.now_s()))
                tasks.append(asyncio.create_task(self._record(client, arrival.file)))
        except asyncio.CancelledError:
            pass
        return tasks

    async def _record(self, client: Client, file: File) -> None:
        self._records.append(await client.send(file, self._phase))

    @contextmanager
    def _span(self, name: str, factor: float = 0.0, ramp_s: float = 0.0) -> Iterator[None]:
        """Measure a phase, with the core use and the lag of the load generator."""
        began_s, cpu_s = self._clock.now_s(), time.process_time()
        self._log(name)
        yield
        ended_s = self._clock.now_s()
        client_cpu = (time.process_time() - cpu_s) / (ended_s - began_s)
        client_lag_ms = 1000 * self._clock.lag_s(began_s, ended_s)
        self._spans.append(Span(name, factor, began_s, ended_s, ramp_s, client_cpu, client_lag_ms))

    def _log(self, line: str) -> None:
        self._log_line(f"{self._clock.now_s():6.1f} s  {line}")
