"""Blacklist: which hotkeys may call, and how often."""

import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from roadwork_serve.miner.metagraph import Metagraph
from roadwork_serve.miner.protocol import CallRejected
from roadwork_serve.token_bucket import TokenBucket


@dataclass(frozen=True, slots=True)
class BlacklistConfig:
    """Rules for callers."""

    #: Hotkeys that may call whatever the chain says.
    allow: frozenset[str] = frozenset()
    #: Hotkeys that may not call.
    deny: frozenset[str] = frozenset()
    #: Other hotkeys need a validator permit.
    validator_permit: bool = True
    #: Other hotkeys need this stake in alpha.
    min_stake: float = 0.0
    #: Calls of one hotkey per minute.
    per_minute: float = 120.0
    #: Concurrent calls of one hotkey.
    max_concurrent: int = 8
    #: There is no chain, so that only hotkeys of `allow` may call.
    offline: bool = False


class Blacklist:
    """Checks callers against the rules and the metagraph."""

    def __init__(
        self,
        config: BlacklistConfig,
        metagraph: Callable[[], Metagraph],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the blacklist.

        Args:
            config: The rules.
            metagraph: Returns the current metagraph.
            clock: Returns the time in seconds.
        """
        self.config = config
        self._metagraph = metagraph
        self._clock = clock
        self._buckets: defaultdict[str, TokenBucket] = defaultdict(TokenBucket)
        self._in_flight: defaultdict[str, int] = defaultdict(int)

    def check(self, hotkey: str) -> float:
        """Return the stake of a hotkey, which is the priority of its calls.

        Raises:
            CallRejected: 403 if the hotkey may not call, 503 if the metagraph has not been read yet.
        """
        config = self.config
        if hotkey in config.deny:
            raise CallRejected(403, "denied", "this hotkey is on the deny-list")
        metagraph = self._metagraph()
        neuron = metagraph.by_hotkey.get(hotkey)
        stake = neuron.stake if neuron else 0.0
        if hotkey in config.allow:
            return stake
        if config.offline:
            raise CallRejected(403, "unrecognized", "this hotkey is not on the allow-list, and this miner is offline")
        if not len(metagraph):
            raise CallRejected(503, "no-metagraph", "this miner has not read the chain yet; try again in a minute")
        if neuron is None:
            raise CallRejected(403, "unrecognized", "this hotkey is not registered on the subnet")
        if config.validator_permit and not neuron.validator_permit:
            raise CallRejected(403, "no-validator-permit", "this hotkey has no validator permit")
        if stake < config.min_stake:
            raise CallRejected(
                403, "stake", f"this hotkey has a stake of {stake:g}, and {config.min_stake:g} is needed"
            )
        return stake

    @asynccontextmanager
    async def limit(self, hotkey: str) -> AsyncGenerator[None]:
        """Count a call of a hotkey whose signature is valid.

        Raises:
            CallRejected: 429 if the hotkey exceeds a limit.
        """
        rate, now_s, bucket = self.config.per_minute, self._clock(), self._buckets[hotkey]
        if wait_s := bucket.wait_s(1, rate, now_s):
            raise CallRejected(429, "rate", f"more than {rate:g} calls per minute; try again in {wait_s:.1f} s")
        if self._in_flight[hotkey] >= self.config.max_concurrent:
            raise CallRejected(
                429, "concurrency", f"{self.config.max_concurrent} calls of this hotkey are in flight; wait for one"
            )
        bucket.take(1, rate, now_s)
        self._in_flight[hotkey] += 1
        try:
            yield
        finally:
            self._in_flight[hotkey] -= 1
            if not self._in_flight[hotkey]:
                del self._in_flight[hotkey]
