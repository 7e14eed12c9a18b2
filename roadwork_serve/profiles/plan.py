"""`roadwork plan`: checks that the engines of a profile fit the GPUs, wherever Ray places them.

Ray reserves shares of a GPU and may place a replica on any GPU with enough left, in any order, and again after a crash.
The plan therefore considers every placement that the shares allow. Replicas that can share a GPU must fit its memory,
and every required replica must find a GPU whatever the placement of the others. A profile may also name the GPU of each
engine, and then there is one placement. Experimental, not yet run on hardware.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.gpu_memory import GpuMemoryNeed, gpu_memory_needs
from roadwork_serve.profiles.profile import Profile

WHOLE = 10_000  # Ray counts shares in ten-thousandths
Process = tuple[str, ...]  # names of its engines
Counts = tuple[int, ...]  # number of replicas of each process


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """The replicas on one GPU."""

    #: Memory of the GPU in GiB.
    gib: float
    needs: tuple[GpuMemoryNeed, ...] = ()
    #: Share that Ray has reserved.
    share: float = 0.0

    @property
    def free(self) -> float:
        """Memory that is left in GiB."""
        return self.gib - sum(need.total for need in self.needs)


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """Placement of the engines of a profile on GPUs."""

    #: The GPUs with the required replicas, each on the first GPU with enough left.
    gpus: tuple[GpuPlan, ...]
    #: The fullest GPU of each size that Ray can produce; empty if the profile names the GPUs.
    fullest: tuple[GpuPlan, ...]
    #: Largest number of replicas of each engine that fit, within the limits of the profile.
    max_replicas: Mapping[str, int]


def plan_placement(profile: Profile, gpus_gib: Sequence[float]) -> PlacementPlan:
    """Return the plan for GPUs of these sizes in GiB. If the profile names GPUs, they are those of a node, by index.

    Raises:
        ConfigError: The engines do not fit; the message names the one to shrink.
    """
    if profile.names_gpus:
        return _plan_named_gpus(profile, gpus_gib)
    planner = PlacementPlanner(profile, gpus_gib)
    most = planner.least
    planner.check(most)
    growing = True
    while growing:
        growing = False
        for index, process in enumerate(planner.processes):
            limit = max(profile.engines[name].max_replicas or 1 for name in process)
            more = tuple(count + (at == index) for at, count in enumerate(most))
            if most[index] < limit and planner.has_room(more):
                most, growing = more, True
    engines = {name: most[at] for at, process in enumerate(planner.processes) for name in process}
    return PlacementPlan(
        planner.required(), tuple(planner.fullest(gib, most) for gib in sorted(set(gpus_gib))), engines
    )


def limit_replicas(profile: Profile, most: Mapping[str, int]) -> Profile:
    """Return the profile with max_replicas limited to these numbers. Other engines do not change."""
    engines = {
        name: engine.model_copy(update={"max_replicas": most[name]}) if name in most and engine.max_replicas else engine
        for name, engine in profile.engines.items()
    }
    return profile.model_copy(update={"engines": engines})


def _plan_named_gpus(profile: Profile, gpus_gib: Sequence[float]) -> PlacementPlan:
    """Return the plan of a profile whose engines name their GPUs."""
    engines = profile.engines
    processes = [names for names in profile.processes() if engines[names[0]].device == "cuda"]
    plans = [GpuPlan(gib) for gib in gpus_gib]
    for names in processes:
        engine = engines[names[0]]
        index = engine.gpu or 0
        if index >= len(plans):
            raise ConfigError(
                f"engines.{names[0]}.gpu is {index}, and the GPUs are numbered from 0 to {len(plans) - 1}: name one "
                "of them, or use a profile for fewer GPUs"
                if plans
                else f"engines.{names[0]}.gpu is {index}, and there is no GPU: set --gpu GIB, once for each"
            )
        there = plans[index]
        needs = gpu_memory_needs(profile, names, there.gib) * engine.replicas
        share = round(there.share + engine.num_gpus * engine.replicas, 4)
        plans[index] = replace(there, needs=there.needs + needs, share=share)
    for index, gpu in enumerate(plans):
        if gpu.share > 1:
            names = ", ".join(dict.fromkeys(need.engine for need in gpu.needs))
            raise ConfigError(
                f"the engines on GPU {index} ({names}) reserve {gpu.share:g} of it: lower their num_gpus to 1 "
                "together, or name another GPU"
            )
        check_memory(gpu, f"GPU {index} with {gpu.gib:g} GiB", named=True)
    return PlacementPlan(tuple(plans), (), {name: engines[name].replicas for names in processes for name in names})


def check_memory(gpu: GpuPlan, name: str, *, named: bool = False) -> None:
    """Check that the replicas fit the memory of their GPU.

    Args:
        gpu: The GPU with its replicas.
        name: Name of the GPU for the message.
        named: The profile names the GPU.

    Raises:
        ConfigError: They do not.
    """
    if gpu.free >= 0:
        return
    *beside, largest = sorted(reversed(gpu.needs), key=lambda need: need.total)  # the first of equals
    others = ", ".join(f"{need.engine} ({need.total:.1f})" for need in beside)
    placed = f" with {others}" if named else f" when Ray places {others}"
    cure = ", or name another GPU for one of them" if named else ", or raise num_gpus so that they cannot share a GPU"
    raise ConfigError(
        f"{name} is {-gpu.free:.1f} GiB short"
        + (f"{placed} beside {largest.engine}" if beside else "")
        + f": shrink engines.{largest.engine}, which needs {largest.total:.1f} GiB (weights {largest.weights:.1f}, "
        f"KV cache {largest.kv_cache:.1f})" + (cure if beside else "")
    )


class PlacementPlanner:
    """The processes of a profile that need a GPU, and the GPUs. An engine on N GPUs counts as N pieces."""

    def __init__(self, profile: Profile, gpus_gib: Sequence[float]) -> None:
        engines = profile.engines
        self._profile, self._gpus = profile, tuple(gpus_gib)
        self.processes = [names for names in profile.processes() if engines[names[0]].device == "cuda"]
        if self.processes and not gpus_gib:
            raise ConfigError(
                f"profile {profile.name} needs GPUs and its gpus_gib is empty: set --gpu GIB, once for each"
            )
        first = [engines[names[0]] for names in self.processes]
        self.least: Counts = tuple(engine.replicas for engine in first)
        self._pieces = tuple(max(1, round(engine.num_gpus)) for engine in first)
        self._shares = tuple(round(WHOLE * min(1.0, engine.num_gpus)) for engine in first)
        for names, pieces in zip(self.processes, self._pieces, strict=True):
            if pieces > 1 and engines[names[0]].vllm.arguments.get("tensor_parallel_size", 1) != pieces:
                raise ConfigError(
                    f"engines.{names[0]}.num_gpus is {pieces} and the engine would use one GPU: set "
                    f"vllm.arguments.tensor_parallel_size to {pieces}, or set num_gpus to 1"
                )
        self._needs = {
            gib: [gpu_memory_needs(profile, names, gib) for names in self.processes] for gib in set(gpus_gib)
        }

    def has_room(self, counts: Counts) -> bool:
        """Return True if these replicas can all run, whatever their placement."""
        pieces = tuple(n * pieces for n, pieces in zip(counts, self._pieces, strict=True))
        loads = list(self._loads(counts))

        @cache
        def fits(gpus: int, left: Counts) -> bool:
            if gpus == 0:
                return not any(left)
            rests = (tuple(have - taken for have, taken in zip(left, load, strict=True)) for load in loads)
            return any(min(rest) >= 0 and fits(gpus - 1, rest) for rest in rests)

        if not fits(len(self._gpus), pieces):
            return False
        try:
            self.check(counts)
        except ConfigError:
            return False
        return True

    def check(self, counts: Counts) -> None:
        """Check that these replicas cannot exceed the memory of a GPU or block a required one.

        Raises:
            ConfigError: They can.
        """
        for gib in sorted(self._needs):
            check_memory(self.fullest(gib, counts), f"a GPU of {gib:g} GiB")
        for at in sorted(range(len(self.processes)), key=lambda at: -self._shares[at]):
            others = [count * pieces for count, pieces in zip(counts, self._pieces, strict=True)]
            others[at] = self.least[at] * self._pieces[at] - 1
            if (blocked := self._blocked(WHOLE - self._shares[at], tuple(others))) is not None:
                placed = ", ".join(f"{self._names(load)} on GPU {gpu}" for gpu, load in enumerate(blocked))
                share = self._profile.engines[self.processes[at][0]].num_gpus
                raise ConfigError(
                    f"engines.{self.processes[at][0]}.num_gpus is {share:g} and no GPU has that much left once Ray "
                    f"has placed {placed}: lower it, or that of the others, or add a GPU"
                )

    def fullest(self, gib: float, counts: Counts) -> GpuPlan:
        """Return the largest need that replicas on one GPU of this size can have."""
        needs = self._needs[gib]
        sums = [sum(need.total for need in some) for some in needs]
        best = max(self._loads(counts), key=lambda load: sum(n * size for n, size in zip(load, sums, strict=True)))
        return self._gpu_plan(gib, best)

    def required(self) -> tuple[GpuPlan, ...]:
        """Place the required replicas in the profile's order, each on the first GPU with enough left."""
        loads = [[0] * len(self.processes) for _ in self._gpus]
        for at, share in enumerate(self._shares):
            for _ in range(self.least[at] * self._pieces[at]):
                free = next(load for load in loads if self._share(load) + share <= WHOLE)
                free[at] += 1
        return tuple(self._gpu_plan(gib, load) for gib, load in zip(self._gpus, loads, strict=True))

    def _gpu_plan(self, gib: float, load: Sequence[int]) -> GpuPlan:
        needs = tuple(need for at, n in enumerate(load) for _ in range(n) for need in self._needs[gib][at])
        return GpuPlan(gib, needs, self._share(load) / WHOLE)

    def _share(self, load: Sequence[int]) -> int:
        return sum(n * share for n, share in zip(load, self._shares, strict=True))

    def _loads(self, counts: Counts) -> Iterator[Counts]:
        """Yield every combination of these replicas whose shares fit one GPU."""

        def grown(load: Counts, at: int, left: int) -> Iterator[Counts]:
            if at == len(counts):
                yield load
                return
            for n in range(counts[at] * self._pieces[at] + 1):
                if n * self._shares[at] > left:
                    return
                yield from grown((*load, n), at + 1, left - n * self._shares[at])

        return grown((), 0, WHOLE)

    def _blocked(self, above: int, others: Counts) -> list[Counts] | None:
        """Return a placement that uses more than `above` of every GPU; None if there is none."""
        unlimited = tuple(-(-n // pieces) for n, pieces in zip(others, self._pieces, strict=True))
        loads = [
            load for load in self._loads(unlimited) if self._share(load) > above and not self._is_redundant(load, above)
        ]

        @cache
        def fill(gpus: int, left: Counts) -> tuple[Counts, ...] | None:
            if gpus == 0:
                return ()
            for load in loads:
                rest = tuple(have - taken for have, taken in zip(left, load, strict=True))
                if min(rest) >= 0 and (more := fill(gpus - 1, rest)) is not None:
                    return (load, *more)
            return None

        found = fill(len(self._gpus), others)
        return None if found is None else list(found)

    def _is_redundant(self, load: Counts, above: int) -> bool:
        """Return True if one replica less would also exceed `above`."""
        return any(n and self._share(load) - share > above for n, share in zip(load, self._shares, strict=True))

    def _names(self, load: Counts) -> str:
        names = [" and ".join(process) for process, n in zip(self.processes, load, strict=True) for _ in range(n)]
        return " and ".join(names)
