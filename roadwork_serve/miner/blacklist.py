"""Who may ask, how often, and who goes first."""

import asyncio
import heapq
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from roadwork_serve.miner.metagraph import Metagraph
from roadwork_serve.miner.protocol import Refused


@dataclass(frozen=True, slots=True)
class BlacklistConfig:
    """allow: hotkeys that may ask whatever the chain says; deny: that may not. min_stake: in alpha, of the others.

    per_minute, at_once: calls of one hotkey. offline: there is no chain, so nobody but `allow` may ask.
    """

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    validator_permit: bool = True
    min_stake: float = 0.0
    per_minute: float = 120.0
    max_concurrent: int = 8
    offline: bool = False


class Blacklist:
    """neurons: what is known of the subnet at the moment."""

    def __init__(
        self, terms: BlacklistConfig, neurons: Callable[[], Metagraph], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.terms = terms
        self._neurons = neurons
        self._clock = clock
        self._spent: dict[str, tuple[float, float]] = {}  # calls left, and when that was so
        self._busy: defaultdict[str, int] = defaultdict(int)

    def admit(self, hotkey: str) -> float:
        """The stake that its calls are ordered by. Raises Refused, 403, with the reason."""
        terms = self.terms
        if hotkey in terms.deny:
            raise Refused(403, "denied", "this hotkey is on the deny-list")
        neurons = self._neurons()
        neuron = neurons.by_hotkey.get(hotkey)
        stake = neuron.stake if neuron else 0.0
        if hotkey in terms.allow:
            return stake
        if terms.offline:
            raise Refused(403, "stranger", "this hotkey is not on the allow-list, and there is no chain to ask")
        if not len(neurons):
            raise Refused(503, "no-metagraph", "this miner has not read the chain yet; come back in a minute")
        if neuron is None:
            raise Refused(403, "stranger", "this hotkey is not registered on the subnet")
        if terms.validator_permit and not neuron.permit:
            raise Refused(403, "no-permit", "this hotkey has no validator permit")
        if stake < terms.min_stake:
            raise Refused(403, "stake", f"this hotkey has a stake of {stake:g}; {terms.min_stake:g} is asked for")
        return stake

    @asynccontextmanager
    async def call(self, hotkey: str) -> AsyncGenerator[None]:
        """One call of a hotkey whose signature is right. Raises Refused, 429, when it has had enough."""
        most = self.terms.per_minute
        now = self._clock()
        left, since = self._spent.get(hotkey, (most, now))
        left = min(most, left + (now - since) * most / 60)
        if left < 1:
            raise Refused(429, "rate", f"more than {most:g} calls a minute; try in {(1 - left) * 60 / most:.1f} s")
        if self._busy[hotkey] >= self.terms.max_concurrent:
            raise Refused(429, "at-once", f"{self.terms.max_concurrent} calls of this hotkey are in work; wait for one")
        self._spent[hotkey] = left - 1, now
        self._busy[hotkey] += 1
        try:
            yield
        finally:
            self._busy[hotkey] -= 1
            if not self._busy[hotkey]:
                del self._busy[hotkey]


class PrioritySemaphore:
    """So many at once; who waits goes in the order of stake, then of arrival. queue: how many may wait."""

    def __init__(self, max_concurrent: int, queue: int) -> None:
        self._free = max_concurrent
        self._queue = queue
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()

    @property
    def waiting(self) -> int:
        return sum(not future.done() for *_, future in self._waiting)

    @asynccontextmanager
    async def turn(self, stake: float) -> AsyncGenerator[None]:
        """Raises Refused, 503, when too many wait already."""
        await self._enter(stake)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, stake: float) -> None:
        if self._free:
            self._free -= 1
            return
        if self.waiting >= self._queue:
            self._make_room(stake)
        mine = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-stake, next(self._number), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # the turn was given while the caller left
                self._leave()
            raise

    def _make_room(self, stake: float) -> None:
        """Who has the least stake, and came last, goes. Raises Refused where nobody has less than this."""
        full = Refused(503, "busy", "too many calls wait already; come back in a second")
        least = max((each for each in self._waiting if not each[-1].done()), key=lambda each: each[:2], default=None)
        if least is None or -least[0] >= stake:
            raise full
        least[-1].set_exception(full)

    def _leave(self) -> None:
        while self._waiting:
            future = heapq.heappop(self._waiting)[-1]
            if not future.done():
                future.set_result(None)
                return
        self._free += 1
