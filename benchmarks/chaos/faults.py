"""Injects faults into the server while it is under load."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx

from benchmarks.chaos.api import Api
from benchmarks.chaos.clock import Clock
from benchmarks.chaos.figures import Kill
from benchmarks.chaos.plan import INGRESS, PROXY, STAGES
from benchmarks.chaos.processes import kill, pids
from benchmarks.chaos.versions import PolicyPeriod, altered, renamed
from benchmarks.server import Server
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.schema import PolicyChange

_POLL_S = 0.2
_HEALTHY_POLLS = 8  # consecutive polls; longer than the ingress takes to notice that a stage is down
_PROPAGATION_S = 1.5
_SETTLE_S = 2.0  # connections to a killed process may still break


class Faults:
    """Kills processes and swaps policies, and records both.

    Args:
        server: the server under test.
        api: its management API.
        clock: the clock of the run.
        policy: the policy that the server starts with.
        replicas: ingress replicas.
        recover_s: time limit of a recovery.
        log: receives progress messages.
    """

    def __init__(
        self, server: Server, api: Api, clock: Clock, policy: dict[str, object], replicas: int, recover_s: float,
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._server, self._api, self._clock, self._log = server, api, clock, log
        self._base, self._replicas, self._recover_s = policy, replicas, recover_s
        self._numbers = itertools.count(1)
        self._recoveries: set[asyncio.Task[None]] = set()
        self._calm_from_s = 0.0
        self.kills: list[Kill] = []
        self.periods = [PolicyPeriod(Policy.parse(policy), 0.0, 0.0)]
        self.changes = 0

    def recently_killed(self) -> bool:
        """Return whether a killed process has not recovered, or only just."""
        return bool(self._recoveries) or self._clock.now_s() < self._calm_from_s

    async def run_step(self, step: str, phase: str) -> None:
        """Run one step of a plan in this phase."""
        match step.split():
            case ["kill", target]:
                self._kill(target, phase)
            case ["recover"]:
                await self.wait_for_recovery()
            case ["swap"]:
                await self._swap()
            case ["rollback"]:
                await self._roll_back()
            case _:
                raise ValueError(f"step {step!r}: write kill TARGET, recover, swap or rollback")

    async def wait_until_healthy(self) -> None:
        """Wait until every ingress replica sees every stage. Raises TimeoutError if that takes too long."""
        async with asyncio.timeout(self._recover_s):
            while not await self._is_healthy(INGRESS):
                pass

    async def wait_for_recovery(self) -> None:
        """Wait until every killed process has recovered or its time limit has passed."""
        if self._recoveries:
            await asyncio.gather(*self._recoveries)

    def _kill(self, target: str, phase: str) -> None:
        before = pids(self._server, target)
        killed = kill(self._server, target)
        entry = Kill(target, phase, self._clock.now_s())
        self._log(f"{phase}: killed {target}")
        self.kills.append(entry)
        task = asyncio.create_task(self._watch_recovery(entry, killed, len(before)))
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)

    async def _watch_recovery(self, entry: Kill, killed: int, expected: int) -> None:
        """Record the time at which a successor of a killed process works."""
        give_up_s = entry.killed_s + self._recover_s
        healthy_polls, since_s = 0, 0.0
        while healthy_polls < _HEALTHY_POLLS and self._clock.now_s() < give_up_s:
            polled_s = self._clock.now_s()
            if len(
                [pid for pid in pids(self._server, entry.target) if pid != killed]
            ) >= expected and await self._is_healthy(entry.target):
                since_s = since_s if healthy_polls else polled_s
                healthy_polls += 1
            else:
                healthy_polls = 0
            await asyncio.sleep(_POLL_S)
        recovered = replace(entry, recovered_s=since_s if healthy_polls >= _HEALTHY_POLLS else None)
        self.kills[self.kills.index(entry)] = recovered
        self._calm_from_s = max(self._calm_from_s, self._clock.now_s() + _SETTLE_S)
        took = "did not recover" if recovered.recovery_s is None else f"recovered after {recovered.recovery_s:.1f} s"
        self._log(f"{entry.phase}: {entry.target} {took}")

    async def _is_healthy(self, target: str) -> bool:
        """Return whether the target works.

        The proxy works if it answers, a stage if all ingress replicas see it up, the ingress if it sees every stage.
        """
        if target == PROXY:
            return await self._api.is_responding()
        up = await self._api.stages_up(self._replicas)
        return up >= ({STAGES[target]} if target in STAGES else set(STAGES.values()))

    async def _swap(self) -> None:
        """Deploy a policy under a new version: alternately an altered one and the first one again."""
        kind = altered if self.changes % 2 == 0 else renamed
        policy = kind(self._base, f"chaos-{next(self._numbers)}")
        self.periods.append(PolicyPeriod(Policy.parse(policy), self._clock.now_s()))
        await self._change(lambda: self._api.put_policy(policy))

    async def _roll_back(self) -> None:
        """Roll back to the policy before the last one."""
        self.periods.append(PolicyPeriod(self.periods[-2].policy, self._clock.now_s()))
        await self._change(self._api.roll_back)

    async def _change(self, request: Callable[[], Awaitable[PolicyChange]]) -> None:
        """Request the latest period until it is active, or for as long as a recovery may take."""
        period, detail = self.periods[-1], ""
        while self._clock.now_s() < period.requested_s + self._recover_s:
            try:
                change = await request()
            except httpx.HTTPError as error:
                if detail != (detail := _describe(error)):
                    self._log(f"policy {period.version} is not active: {detail}")
                await asyncio.sleep(_POLL_S)
                continue
            now_s = self._clock.now_s()
            if change.version != period.version:
                self._log(f"requested policy {period.version}, but the server reports {change.version}")
                return
            # A replica that the server did not reach adopts the policy within a second.
            period.confirmed_s = now_s if change.replicas >= self._replicas else now_s + _PROPAGATION_S
            self.changes += 1
            took = f"after {1000 * (now_s - period.requested_s):.0f} ms on {change.replicas} replicas"
            self._log(f"policy {period.version} is active {took}")
            return


def _describe(error: httpx.HTTPError) -> str:
    response = getattr(error, "response", None)
    return f"{response.status_code} {response.text[:300]}" if response is not None else type(error).__name__
