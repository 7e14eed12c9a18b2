"""Events: items come, calls end, replicas get ready, and now and then a policy says how many there are to be."""

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
    """An item on its way. at: the stage it is at, by number."""

    item: Item
    deadline_s: float
    at: int = 0


@dataclass(slots=True, eq=False)
class Replica:
    """ready: answers. busy: calls in work. going: takes no more."""

    card: int
    since_s: float
    ready: bool = False
    busy: int = 0
    going: bool = False


@dataclass(slots=True, eq=False)
class Line:
    """A stage: what waits for it and what works for it. pending: replicas that have found no card yet."""

    name: str
    stage: Stage
    waiting: deque[Job] = field(default_factory=deque)
    replicas: list[Replica] = field(default_factory=list)
    pending: int = 0
    held_s: float = 0.0  # replica-seconds of those that are gone
    starts: int = 0

    @property
    def target(self) -> int:
        """Replicas there are to be."""
        return sum(not replica.going for replica in self.replicas) + self.pending

    @property
    def running(self) -> int:
        """Replicas that answer."""
        return sum(replica.ready and not replica.going for replica in self.replicas)

    @property
    def ongoing(self) -> int:
        """Items that wait or are worked on, as calls in flight."""
        return len(self.waiting) + sum(replica.busy for replica in self.replicas)


class Policy(Protocol):
    """What scales. It is told of what a server knows, and of nothing else."""

    def record_arrival(self, now_s: float) -> None:
        """Record the arrival of an item."""

    def record_inference(self, stage: str, took_s: float, batch: int) -> None:
        """Record a call of a stage."""

    def record_exit(self, stages: list[str]) -> None:
        """Record the exit of an item, with the stages that it reached."""

    def targets(self, now_s: float, lines: dict[str, Line]) -> dict[str, int]:
        """Replicas that every stage is to have from now on. Called every TICK_S."""
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
    card_hours: float
    #: Starts of replicas after the first.
    starts: int
    #: 50th and 99th percentile of the latency of items in time.
    waits_s: tuple[float, float]
    hours: tuple[tuple[float, float, float], ...]  # by quarter of an hour: items a second, cards' shares held, missed

    @property
    def missed_share(self) -> float:
        return self.missed / max(1, self.items)


class Simulation:
    """One day under one policy."""

    def __init__(self, world: World, policy: Policy) -> None:
        self._world, self._policy = world, policy
        self._free = [1.0] * world.cards
        self.lines = {name: Line(name, stage) for name, stage in world.stages}
        self._order = list(self.lines.values())
        self._events: list[tuple[float, int, str, Any]] = []
        self._number = count()
        self.now_s = 0.0
        self._items = self._missed = 0
        self._waits: list[float] = []
        self._card_s = 0.0
        self._quarters: list[list[float]] = []

    def run(self, items: Iterable[Item]) -> Day:
        """Return the day's items, one after the other, until all have left."""
        for line in self._order:
            self._place(line, ready=True)
        coming = iter(items)
        self._next(coming)
        self._at(0.0, "tick", None)
        while self._events:
            self.now_s, _, kind, about = heapq.heappop(self._events)
            if kind == "item":
                self._came(about, coming)
            elif kind == "done":
                self._done(*about)
            elif kind == "ready":
                self._ready(*about)
            elif self._events:  # a tick, while there is something else to come
                self._tick()
        return self._told()

    def _at(self, at_s: float, kind: str, about: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._number), kind, about))

    def _next(self, coming: Any) -> None:
        if (item := next(coming, None)) is not None:
            self._at(item.at_s, "item", item)

    def _came(self, item: Item, coming: Any) -> None:
        self._next(coming)
        self._items += 1
        self._quarter()[0] += 1
        self._policy.record_arrival(self.now_s)
        self._order[0].waiting.append(Job(item, item.at_s + self._world.deadline_s))
        self._go(self._order[0])

    def _go(self, line: Line) -> None:
        """Give what waits to whoever is free."""
        stage = line.stage
        for replica in line.replicas:
            while replica.ready and not replica.going and replica.busy < stage.slots and line.waiting:
                jobs: list[Job] = []
                while line.waiting and len(jobs) < stage.max_batch:
                    job = line.waiting.popleft()
                    if job.deadline_s <= self.now_s:
                        self._leave(job, line, missed=True)
                    else:
                        jobs.append(job)
                if jobs:
                    replica.busy += 1
                    took_s = stage.call_s(len(jobs))
                    self._at(self.now_s + took_s, "done", (line, replica, jobs, took_s))

    def _done(self, line: Line, replica: Replica, jobs: list[Job], took_s: float) -> None:
        replica.busy -= 1
        if replica.going and not replica.busy:
            self._remove(line, replica)
        for job in jobs:
            self._policy.record_inference(line.name, took_s, len(jobs))
            job.at += 1
            if job.at == job.item.stages or job.deadline_s <= self.now_s:
                self._leave(job, line, missed=job.deadline_s < self.now_s or job.at < job.item.stages)
            else:
                self._order[job.at].waiting.append(job)
                self._go(self._order[job.at])
        self._go(line)

    def _leave(self, job: Job, line: Line, missed: bool) -> None:
        self._policy.record_exit([each.name for each in self._order[: max(job.at, self._order.index(line) + 1)]])
        if missed:
            self._missed += 1
            self._quarter()[2] += 1
        else:
            self._waits.append(self.now_s - job.item.at_s)

    def _tick(self) -> None:
        for line in self._order:  # as a server does, what is too late is not kept
            while line.waiting and line.waiting[0].deadline_s <= self.now_s:
                self._leave(line.waiting.popleft(), line, missed=True)
        targets = self._policy.targets(self.now_s, self.lines)
        for line in self._order:
            self._scale(line, targets[line.name])
        for line in self._order:
            while line.pending and self._place(line):
                line.pending -= 1
        held = len(self._free) - sum(self._free)
        self._card_s += TICK_S * sum(free < 1 - 1e-9 for free in self._free)
        self._quarter()[1] += held * TICK_S
        self._at(self.now_s + TICK_S, "tick", None)

    def _scale(self, line: Line, target: int) -> None:
        line.pending += max(0, target - line.target)
        line.pending -= min(line.pending, max(0, line.target - target))
        staying = [replica for replica in line.replicas if not replica.going]
        for replica in sorted(staying, key=lambda each: (each.ready, each.busy))[: max(0, line.target - target)]:
            replica.going = True
            if not replica.busy:
                self._remove(line, replica)

    def _place(self, line: Line, ready: bool = False) -> bool:
        """Start a replica on the fullest card that has room, as Ray does."""
        fitting = [(free, card) for card, free in enumerate(self._free) if free >= line.stage.gpus - 1e-9]
        if not fitting:
            return False
        _, card = min(fitting)
        self._free[card] -= line.stage.gpus
        replica = Replica(card, self.now_s, ready)
        line.replicas.append(replica)
        if not ready:
            line.starts += 1
            self._at(self.now_s + line.stage.start_s, "ready", (line, replica))
        return True

    def _ready(self, line: Line, replica: Replica) -> None:
        if replica in line.replicas and not replica.going:
            replica.ready = True
            self._go(line)

    def _remove(self, line: Line, replica: Replica) -> None:
        line.replicas.remove(replica)
        self._free[replica.card] += line.stage.gpus
        line.held_s += self.now_s - replica.since_s

    def _quarter(self) -> list[float]:
        while len(self._quarters) <= self.now_s // 900:
            self._quarters.append([0.0, 0.0, 0.0])
        return self._quarters[int(self.now_s // 900)]

    def _told(self) -> Day:
        gpu_s = sum(
            line.stage.gpus * (line.held_s + sum(self.now_s - replica.since_s for replica in line.replicas))
            for line in self._order
        )
        waits = sorted(self._waits) or [0.0]
        return Day(
            items=self._items,
            in_time=len(self._waits),
            missed=self._missed,
            gpu_hours=gpu_s / 3600,
            card_hours=self._card_s / 3600,
            starts=sum(line.starts for line in self._order),
            waits_s=(waits[len(waits) // 2], waits[int(0.99 * (len(waits) - 1))]),
            hours=tuple((items / 900, held_s / 900, missed) for items, held_s, missed in self._quarters),
        )
