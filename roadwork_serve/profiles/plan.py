"""`roadwork plan`: whether the engines of a profile fit the cards, wherever Ray puts them.

Ray books shares of a card and says nothing about which card: a replica may land on any that has its share left, in any
order, and again after a crash. So every arrangement that the shares allow counts. Two things must hold: what can meet
on a card fits its memory, and a replica that must run finds a card however the others lie.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.gpu_memory import GpuMemoryNeed, gpu_memory_needs
from roadwork_serve.profiles.profile import Profile

WHOLE = 10_000  # Ray books shares in ten-thousandths
Process = tuple[str, ...]  # the engines it opens
Counts = tuple[int, ...]  # replicas of each process


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """gib: its memory. share: how much of it Ray has promised."""

    gib: float
    needs: tuple[GpuMemoryNeed, ...] = ()
    share: float = 0.0

    @property
    def left(self) -> float:
        return self.gib - sum(need.total for need in self.needs)


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """cards: with the replicas that always run, each on the first that has its share left, as listed.

    fullest: of each size of card, the fullest one that Ray can make. most: replicas of each engine on a card that
    have room under load, at most as many as the profile allows.
    """

    cards: tuple[GpuPlan, ...]
    fullest: tuple[GpuPlan, ...]
    most: Mapping[str, int]


def plan_placement(profile: Profile, cards_gib: Sequence[float]) -> PlacementPlan:
    """The plan for these cards. Raises ConfigError naming the engine to shrink when shares or memory do not add up."""
    board = PlacementPlanner(profile, cards_gib)
    most = board.least
    board.check(most)
    growing = True
    while growing:
        growing = False
        for index, process in enumerate(board.processes):
            limit = max(profile.engines[name].max_replicas or 1 for name in process)
            more = tuple(count + (at == index) for at, count in enumerate(most))
            if most[index] < limit and board.has_room(more):
                most, growing = more, True
    engines = {name: most[at] for at, process in enumerate(board.processes) for name in process}
    return PlacementPlan(board.listed(), tuple(board.fullest(gib, most) for gib in sorted(set(cards_gib))), engines)


def limit_replicas(profile: Profile, most: Mapping[str, int]) -> Profile:
    """The profile with no more replicas under load than have room; engines that are not listed stay as they are."""
    engines = {
        name: engine.model_copy(update={"max_replicas": most[name]}) if name in most and engine.max_replicas else engine
        for name, engine in profile.engines.items()
    }
    return profile.model_copy(update={"engines": engines})


class PlacementPlanner:
    """The processes of a profile that need a card, and the cards. An engine on N cards counts as N pieces of one."""

    def __init__(self, profile: Profile, cards_gib: Sequence[float]) -> None:
        engines = profile.engines
        self._profile, self._cards = profile, tuple(cards_gib)
        self.processes = [names for names in profile.processes() if engines[names[0]].device == "cuda"]
        if self.processes and not cards_gib:
            raise ConfigError(
                f"profile {profile.name} wants cards and its cards_gib names none: say --gpu GIB, once each"
            )
        first = [engines[names[0]] for names in self.processes]
        self.least: Counts = tuple(engine.replicas for engine in first)
        self._pieces = tuple(max(1, round(engine.num_gpus)) for engine in first)
        self._shares = tuple(round(WHOLE * min(1.0, engine.num_gpus)) for engine in first)
        for names, pieces in zip(self.processes, self._pieces, strict=True):
            if pieces > 1 and engines[names[0]].vllm.arguments.get("tensor_parallel_size", 1) != pieces:
                raise ConfigError(
                    f"engines.{names[0]}.num_gpus is {pieces} and it would use one card: set "
                    f"vllm.arguments.tensor_parallel_size to {pieces}, or book one"
                )
        self._needs = {
            gib: [gpu_memory_needs(profile, names, gib) for names in self.processes] for gib in set(cards_gib)
        }

    def has_room(self, counts: Counts) -> bool:
        """Whether so many replicas can all run, and do no harm however they lie."""
        pieces = tuple(n * pieces for n, pieces in zip(counts, self._pieces, strict=True))
        loads = list(self._loads(counts))

        @cache
        def placed(cards: int, left: Counts) -> bool:
            if cards == 0:
                return not any(left)
            rests = (tuple(have - taken for have, taken in zip(left, load, strict=True)) for load in loads)
            return any(min(rest) >= 0 and placed(cards - 1, rest) for rest in rests)

        if not placed(len(self._cards), pieces):
            return False
        try:
            self.check(counts)
        except ConfigError:
            return False
        return True

    def check(self, counts: Counts) -> None:
        """Raises ConfigError when so many replicas can overflow a card, or keep one that must run from starting."""
        for gib in sorted(self._needs):
            self._check_memory(self.fullest(gib, counts))
        for at in sorted(range(len(self.processes)), key=lambda at: -self._shares[at]):
            others = [count * pieces for count, pieces in zip(counts, self._pieces, strict=True)]
            others[at] = self.least[at] * self._pieces[at] - 1
            if (blocked := self._blocked(WHOLE - self._shares[at], tuple(others))) is not None:
                held = ", ".join(f"{self._told(load)} on card {card}" for card, load in enumerate(blocked))
                share = self._profile.engines[self.processes[at][0]].num_gpus
                raise ConfigError(
                    f"engines.{self.processes[at][0]}.num_gpus is {share:g} and no card has that much left once Ray "
                    f"has put {held}: lower it, or that of the others, or add a card"
                )

    def fullest(self, gib: float, counts: Counts) -> GpuPlan:
        """The most memory that can come together on a card of this size."""
        needs = self._needs[gib]
        sums = [sum(need.total for need in some) for some in needs]
        best = max(self._loads(counts), key=lambda load: sum(n * size for n, size in zip(load, sums, strict=True)))
        return self._card(gib, best)

    def listed(self) -> tuple[GpuPlan, ...]:
        """Every replica that always runs, in the profile's order, on the first card that has its share left."""
        loads = [[0] * len(self.processes) for _ in self._cards]
        for at, share in enumerate(self._shares):
            for _ in range(self.least[at] * self._pieces[at]):
                free = next(load for load in loads if self._share(load) + share <= WHOLE)
                free[at] += 1
        return tuple(self._card(gib, load) for gib, load in zip(self._cards, loads, strict=True))

    def _card(self, gib: float, load: Sequence[int]) -> GpuPlan:
        needs = tuple(need for at, n in enumerate(load) for _ in range(n) for need in self._needs[gib][at])
        return GpuPlan(gib, needs, self._share(load) / WHOLE)

    def _check_memory(self, card: GpuPlan) -> None:
        if card.left >= 0:
            return
        *beside, largest = sorted(reversed(card.needs), key=lambda need: need.total)  # of equals the first listed
        meeting = ", ".join(f"{need.engine} ({need.total:.1f})" for need in beside)
        raise ConfigError(
            f"a card of {card.gib:g} GiB is {-card.left:.1f} GiB short"
            + (f" when Ray puts {meeting} beside {largest.engine}" if beside else "")
            + f": shrink engines.{largest.engine}, which needs {largest.total:.1f} GiB (weights {largest.weights:.1f}, "
            f"KV cache {largest.kv_cache:.1f})" + (", or raise num_gpus so that they cannot meet" if beside else "")
        )

    def _share(self, load: Sequence[int]) -> int:
        return sum(n * share for n, share in zip(load, self._shares, strict=True))

    def _loads(self, counts: Counts) -> Iterator[Counts]:
        """Everything that a card's shares let it hold, out of so many replicas of each process."""

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
        """What the others lie like when every card's share is taken beyond `above`; None when they cannot."""
        unlimited = tuple(-(-n // pieces) for n, pieces in zip(others, self._pieces, strict=True))
        loads = [load for load in self._loads(unlimited) if self._share(load) > above and not self._spares(load, above)]

        @cache
        def fill(cards: int, left: Counts) -> tuple[Counts, ...] | None:
            if cards == 0:
                return ()
            for load in loads:
                rest = tuple(have - taken for have, taken in zip(left, load, strict=True))
                if min(rest) >= 0 and (more := fill(cards - 1, rest)) is not None:
                    return (load, *more)
            return None

        found = fill(len(self._cards), others)
        return None if found is None else list(found)

    def _spares(self, load: Counts, above: int) -> bool:
        """Whether one replica less would do as well."""
        return any(n and self._share(load) - share > above for n, share in zip(load, self._shares, strict=True))

    def _told(self, load: Counts) -> str:
        names = [" and ".join(process) for process, n in zip(self.processes, load, strict=True) for _ in range(n)]
        return " and ".join(names)
