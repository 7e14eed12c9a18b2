"""What is done to the server while it is under load."""

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
from benchmarks.chaos.versions import Reign, altered, renamed
from benchmarks.server import Server
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.schema import PolicyChange

_LOOK_S = 0.2
_IN_A_ROW = 8  # looks that must find it well: longer than the ingress takes to see that a stage is down
_UNREACHED_S = 1.5
_AFTERMATH_S = 2.0  # connections to a process that was killed may still break


class Faults:
    """Kills processes and swaps policies, and keeps account of both.

    policy: the one the server starts with. replicas: of the ingress. recover_s: at most for a recovery.
    """

    def __init__(
        self, server: Server, api: Api, clock: Clock, policy: dict[str, object], replicas: int, recover_s: float,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._server, self._api, self._clock, self._tell = server, api, clock, tell
        self._base, self._replicas, self._recover_s = policy, replicas, recover_s
        self._numbers = itertools.count(1)
        self._recovering: set[asyncio.Task[None]] = set()
        self._calm_from_s = 0.0
        self.kills: list[Kill] = []
        self.reigns = [Reign(Policy.parse(policy), 0.0, 0.0)]
        self.changes = 0

    def disturbed(self) -> bool:
        """Whether a process has been killed and is not back, or only just."""
        return bool(self._recovering) or self._clock.now_s() < self._calm_from_s

    async def do(self, step: str, phase: str) -> None:
        """One step of a plan, in this phase."""
        match step.split():
            case ["kill", target]:
                self._kill(target, phase)
            case ["recover"]:
                await self.recovered()
            case ["swap"]:
                await self._swap()
            case ["rollback"]:
                await self._roll_back()
            case _:
                raise ValueError(f"step {step!r}: write kill TARGET, recover, swap or rollback")

    async def whole(self) -> None:
        """Return when every ingress replica sees every stage. Raises TimeoutError when that takes too long."""
        async with asyncio.timeout(self._recover_s):
            while not await self._works(INGRESS):
                pass

    async def recovered(self) -> None:
        """Return when all that was killed is back, or was given up."""
        if self._recovering:
            await asyncio.gather(*self._recovering)

    def _kill(self, target: str, phase: str) -> None:
        before = pids(self._server, target)
        killed = kill(self._server, target)
        entry = Kill(target, phase, self._clock.now_s())
        self._tell(f"{phase}: killed {target}")
        self.kills.append(entry)
        task = asyncio.create_task(self._follow(entry, killed, len(before)))
        self._recovering.add(task)
        task.add_done_callback(self._recovering.discard)

    async def _follow(self, entry: Kill, killed: int, wanted: int) -> None:
        """Find out when a successor of a process does its work."""
        give_up_s = entry.at_s + self._recover_s
        well, since_s = 0, 0.0
        while well < _IN_A_ROW and self._clock.now_s() < give_up_s:
            looked_s = self._clock.now_s()
            if len([pid for pid in pids(self._server, entry.target) if pid != killed]) >= wanted and await self._works(
                entry.target
            ):
                since_s = since_s if well else looked_s
                well += 1
            else:
                well = 0
            await asyncio.sleep(_LOOK_S)
        back = replace(entry, back_s=since_s if well >= _IN_A_ROW else None)
        self.kills[self.kills.index(entry)] = back
        self._calm_from_s = max(self._calm_from_s, self._clock.now_s() + _AFTERMATH_S)
        took = "did not come back" if back.recovery_s is None else f"back after {back.recovery_s:.1f} s"
        self._tell(f"{entry.phase}: {entry.target} {took}")

    async def _works(self, target: str) -> bool:
        """Whether the proxy answers, all ingress replicas see the stage up, or, of the ingress, every stage."""
        if target == PROXY:
            return await self._api.answers()
        up = await self._api.up(self._replicas)
        return up >= ({STAGES[target]} if target in STAGES else set(STAGES.values()))

    async def _swap(self) -> None:
        """Put a policy under a version of its own: in turn one that can be told from the first, and the first again."""
        kind = altered if self.changes % 2 == 0 else renamed
        policy = kind(self._base, f"chaos-{next(self._numbers)}")
        self.reigns.append(Reign(Policy.parse(policy), self._clock.now_s()))
        await self._change(lambda: self._api.put_policy(policy))

    async def _roll_back(self) -> None:
        """Back to the policy before the last one that was put."""
        self.reigns.append(Reign(self.reigns[-2].policy, self._clock.now_s()))
        await self._change(self._api.roll_back)

    async def _change(self, ask: Callable[[], Awaitable[PolicyChange]]) -> None:
        """Ask for the last reign until it is in force, or for as long as a recovery may take."""
        reign, told = self.reigns[-1], ""
        while self._clock.now_s() < reign.asked_s + self._recover_s:
            try:
                change = await ask()
            except httpx.HTTPError as error:
                if told != (told := _words(error)):
                    self._tell(f"policy {reign.version} is not in force: {told}")
                await asyncio.sleep(_LOOK_S)
                continue
            now_s = self._clock.now_s()
            if change.version != reign.version:
                self._tell(f"asked for policy {reign.version}, and the server says {change.version}")
                return
            # The server promises that a replica it did not reach goes by the policy within a second.
            reign.told_s = now_s if change.replicas >= self._replicas else now_s + _UNREACHED_S
            self.changes += 1
            took = f"after {1000 * (now_s - reign.asked_s):.0f} ms on {change.replicas} replicas"
            self._tell(f"policy {reign.version} is in force {took}")
            return


def _words(error: httpx.HTTPError) -> str:
    response = getattr(error, "response", None)
    return f"{response.status_code} {response.text[:300]}" if response is not None else type(error).__name__
