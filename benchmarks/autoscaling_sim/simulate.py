"""Event simulation of the cascade: arrivals, calls, replica starts, and a policy that sets the numbers of replicas."""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from benchmarks.autoscaling_sim.world import Item, Stage, World

TICK_S = 5.0


@dataclass(slots=True, eq=False)
class Job:
    """An item on its way through the stages."""

    item: Item
    deadline_s: float
    #: Position of its current stage.
    stage_index: int = 0


@dataclass(slots=True, eq=False)
class Replica:
    """A replica of a stage."""

    gpu: int
    since_s: float
    #: Accepts calls.
    ready: bool = False
    #: Calls in flight.
    calls: int = 0
    #: Accepts no further calls.
    draining: bool = False


@dataclass(slots=True, eq=False)
class StageState:
    """A stage with its queue and its replicas."""

    name: str
    stage: Stage
    waiting: deque[Job] = field(default_factory=deque)
    replicas: list[Replica] = field(default_factory=list)
    #: Replicas waiting for room on a GPU.
    pending: int = 0
    #: Replica-seconds of replicas that have stopped.
    stopped_replica_s: float = 0.0
    starts: int = 0

    @property
    def target(self) -> int:
        """Replicas there should be."""
        return sum(not replica.draining for replica in self.replicas) + self.pending

    @property
    def running(self) -> int:
        """Replicas that accept calls."""
        return sum(replica.ready and not replica.draining for replica in self.replicas)

    @property
    def ongoing(self) -> int:
        """Items queued, plus calls in flight."""
        return len(self.waiting) + sum(replica.calls for replica in self.replicas)


class Policy(Protocol):
    """An autoscaling policy. It sees only what a server knows."""

    def record_arrival(self, now_s: float) -> None:
        """Record the arrival of an item."""

    def record_inference(self, stage: str, took_s: float, batch: int) -> None:
        """Record a call of a stage."""

    def record_exit(self, stages: list[str]) -> None:
        """Record the exit of an item, with the stages that it reached."""

    def targets(self, now_s: float, states: dict[str, StageState]) -> dict[str, int]:
        """Return the wanted number of replicas of each stage. Called every TICK_S."""
        ...


@dataclass(frozen=True, slots=True)
class Day:
    """The results of a simulated day."""

    items: int
    in_time: int
    #: Items without all the stages they needed by their deadline.
    missed: int
    #: GPU shares reserved by replicas, from their placement on.
    gpu_hours: float
    #: Hours of GPUs with at least one replica.
    occupied_gpu_hours: float
    #: Starts of replicas after the first.
    starts: int
    #: 50th and 99th percentile of the latency of items in time.
    latency_s: tuple[float, float]
    #: For each quarter of an hour: items per second, GPU shares reserved, deadlines missed.
    quarters: tuple[tuple[float, float, float], ...]

    @property
    def missed_share(self) -> float:
        return self.missed / max(1, self.items)


class Simulation:
    """A simulation of one day under one policy."""

    def __init__(self, world: World, policy: Policy) -> None:
        self._world, self._policy = world, policy
        self._free = [1.0] * world.gpu_count
        self.states = {name: StageState(name, stage) for name, stage in world.stages}
        self._order = list(self.states.values())
        self._events: list[tuple[float, int, str, Any]] = []
        self._sequence = count()
        self.now_s = 0.0
        self._items = self._missed = 0
        self._latencies: list[float] = []
        self._occupied_gpu_s = 0.0
        self._quarters: list[list[float]] = []

    def run(self, items: Iterable[Item]) -> Day:
        """Simulate the items in order, until all have left, and return the results."""
        for state in self._order:
            self._start_replica(state, ready=True)
        arrivals = iter(items)
        self._schedule_next(arrivals)
        self._schedule(0.0, "tick", None)
        while self._events:
            self.now_s, _, kind, payload = heapq.heappop(self._events)
            if kind == "item":
                self._arrive(payload, arrivals)
            elif kind == "done":
                self._finish(*payload)
            elif kind == "ready":
                self._on_ready(*payload)
            elif self._events:  # a tick; the last one ends the day
                self._tick()
        return self._summary()

    def _schedule(self, at_s: float, kind: str, payload: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._sequence), kind, payload))

    def _schedule_next(self, arrivals: Any) -> None:
        if (item := next(arrivals, None)) is not None:
            self._schedule(item.at_s, "item", item)

    def _arrive(self, item: Item, arrivals: Any) -> None:
        self._schedule_next(arrivals)
        self._items += 1
        self._quarter()[0] += 1
        self._policy.record_arrival(self.now_s)
        self._order[0].waiting.append(Job(item, item.at_s + self._world.deadline_s))
        self._dispatch(self._order[0])

    def _dispatch(self, state: StageState) -> None:
        """Assign queued items to free replicas."""
        stage = state.stage
        for replica in state.replicas:
            while replica.ready and not replica.draining and replica.calls < stage.slots and state.waiting:
                jobs: list[Job] = []
                while state.waiting and len(jobs) < stage.max_batch:
                    job = state.waiting.popleft()
                    if job.deadline_s <= self.now_s:
                        self._exit(job, state, missed=True)
                    else:
                        jobs.append(job)
                if jobs:
                    replica.calls += 1
                    took_s = stage.call_s(len(jobs))
                    self._schedule(self.now_s + took_s, "done", (state, replica, jobs, took_s))

    def _finish(self, state: StageState, replica: Replica, jobs: list[Job], took_s: float) -> None:
        replica.calls -= 1
        if replica.draining and not replica.calls:
            self._remove(state, replica)
        for job in jobs:
            self._policy.record_inference(state.name, took_s, len(jobs))
            job.stage_index += 1
            if job.stage_index == job.item.stages or job.deadline_s <= self.now_s:
                self._exit(job, state, missed=job.deadline_s < self.now_s or job.stage_index < job.item.stages)
            else:
                self._order[job.stage_index].waiting.append(job)
                self._dispatch(self._order[job.stage_index])
        self._dispatch(state)

    def _exit(self, job: Job, state: StageState, missed: bool) -> None:
        self._policy.record_exit(
            [each.name for each in self._order[: max(job.stage_index, self._order.index(state) + 1)]]
        )
        if missed:
            self._missed += 1
            self._quarter()[2] += 1
        else:
            self._latencies.append(self.now_s - job.item.at_s)

    def _tick(self) -> None:
        for state in self._order:  # like a server, drop items that are too late
            while state.waiting and state.waiting[0].deadline_s <= self.now_s:
                self._exit(state.waiting.popleft(), state, missed=True)
        targets = self._policy.targets(self.now_s, self.states)
        for state in self._order:
            self._scale(state, targets[state.name])
        for state in self._order:
            while state.pending and self._start_replica(state):
                state.pending -= 1
        reserved = len(self._free) - sum(self._free)
        self._occupied_gpu_s += TICK_S * sum(free < 1 - 1e-9 for free in self._free)
        self._quarter()[1] += reserved * TICK_S
        self._schedule(self.now_s + TICK_S, "tick", None)

    def _scale(self, state: StageState, target: int) -> None:
        state.pending += max(0, target - state.target)
        state.pending -= min(state.pending, max(0, state.target - target))
        staying = [replica for replica in state.replicas if not replica.draining]
        for replica in sorted(staying, key=lambda each: (each.ready, each.calls))[: max(0, state.target - target)]:
            replica.draining = True
            if not replica.calls:
                self._remove(state, replica)

    def _start_replica(self, state: StageState, ready: bool = False) -> bool:
        """Start a replica on the fullest GPU that has room, as Ray does. Returns whether there was room."""
        fitting = [(free, gpu) for gpu, free in enumerate(self._free) if free >= state.stage.gpus - 1e-9]
        if not fitting:
            return False
        _, gpu = min(fitting)
        self._free[gpu] -= state.stage.gpus
        replica = Replica(gpu, self.now_s, ready)
        state.replicas.append(replica)
        if not ready:
            state.starts += 1
            self._schedule(self.now_s + state.stage.start_s, "ready", (state, replica))
        return True

    def _on_ready(self, state: StageState, replica: Replica) -> None:
        if replica in state.replicas and not replica.draining:
            replica.ready = True
            self._dispatch(state)

    def _remove(self, state: StageState, replica: Replica) -> None:
        state.replicas.remove(replica)
        self._free[replica.gpu] += state.stage.gpus
        state.stopped_replica_s += self.now_s - replica.since_s

    def _quarter(self) -> list[float]:
        while len(self._quarters) <= self.now_s // 900:
            self._quarters.append([0.0, 0.0, 0.0])
        return self._quarters[int(self.now_s // 900)]

    def _summary(self) -> Day:
        gpu_s = sum(
            state.stage.gpus
            * (state.stopped_replica_s + sum(self.now_s - replica.since_s for replica in state.replicas))
            for state in self._order
        )
        latencies = sorted(self._latencies) or [0.0]
        return Day(
            items=self._items,
            in_time=len(self._latencies),
            missed=self._missed,
            gpu_hours=gpu_s / 3600,
            occupied_gpu_hours=self._occupied_gpu_s / 3600,
            starts=sum(state.starts for state in self._order),
            latency_s=(latencies[len(latencies) // 2], latencies[int(0.99 * (len(latencies) - 1))]),
            quarters=tuple((items / 900, reserved_s / 900, missed) for items, reserved_s, missed in self._quarters),
        )
