"""The chain: reads the metagraph in the background and publishes this miner's address.

Calls never wait for the chain: they are checked against the last metagraph, which is stored for the next start.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.addresses import authority
from roadwork_serve.miner.metagraph import Metagraph, NeuronInfo
from roadwork_serve.miner.state_files import read_state, set_aside

_LOG = logging.getLogger("roadwork.miner.chain")
_READ_TIMEOUT_S = 90.0  # of one reading with the connection
_RETRY_S = 5.0  # until the first retry; it doubles each time
_STALE_READINGS = 3  # missed in a row
Connect = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class AxonEndpoint:
    """The address to publish on the chain."""

    ip: str
    port: int

    def __post_init__(self) -> None:
        try:
            address = ipaddress.ip_address(self.ip)
        except ValueError:
            raise ConfigError(f"{self.ip} is not an IP address; give the one at which validators reach you") from None
        object.__setattr__(self, "ip", str(address))  # in the format of the chain
        if address.is_unspecified or address.is_loopback:
            raise ConfigError(
                f"{self.ip} cannot be reached from other machines; give the address at which validators reach you"
            )

    def __str__(self) -> str:
        return authority(self.ip, self.port)


class Chain:
    """Reads the metagraph again and again, and publishes the axon's address."""

    def __init__(
        self,
        connect: Connect,
        netuid: int,
        hotkey: str,
        file: Path,
        refresh_s: float = 300.0,
        endpoint: AxonEndpoint | None = None,
        wallet: Any = None,
    ) -> None:
        """Load the stored metagraph.

        Args:
            connect: Opens a `bittensor.Client`.
            netuid: Number of the subnet.
            hotkey: ss58 address of this miner.
            file: File for the last metagraph.
            refresh_s: Time between readings in seconds.
            endpoint: Address to publish; None publishes none.
            wallet: Wallet whose hotkey publishes it.
        """
        self._connect = connect
        self._netuid = netuid
        self._hotkey = hotkey
        self._file = file
        self._refresh_s = refresh_s
        self._endpoint = endpoint
        self._wallet = wallet
        self.metagraph = _load(file)
        #: The hotkey is registered on the subnet; None if unknown.
        self.registered: bool | None = hotkey in self.metagraph.by_hotkey if len(self.metagraph) else None
        #: Address that is not on the chain yet.
        self.to_publish: AxonEndpoint | None = None
        #: Consecutive failures.
        self.failures = 0

    @property
    def age_s(self) -> float:
        """Age of the metagraph in use in seconds."""
        return time.time() - self.metagraph.at_s

    @property
    def stale(self) -> bool:
        """True if several readings in a row have failed."""
        return self.age_s > _STALE_READINGS * self._refresh_s

    async def run(self) -> None:
        """Read the metagraph periodically until cancelled. Retry after a failure with exponential back-off."""
        while True:
            try:
                await self.refresh()
            except Exception as error:
                self.failures += 1
                _LOG.log(
                    logging.ERROR if self.stale else logging.WARNING,
                    "Cannot read the chain (attempt %d): %s; %s.",
                    self.failures,
                    error or type(error).__name__,
                    f"the metagraph in use is {self.age_s:.0f} s old"
                    if len(self.metagraph)
                    else "no metagraph is stored",
                )
            await asyncio.sleep(self.wait_s)

    @property
    def wait_s(self) -> float:
        """Time until the next reading in seconds."""
        return min(self._refresh_s, _RETRY_S * 2 ** min(self.failures - 1, 16)) if self.failures else self._refresh_s

    async def refresh(self, publish: bool = True) -> None:
        """Read and store the metagraph, and publish this miner's address if the chain has another.

        Args:
            publish: False only reads.

        Raises:
            ConfigError: The subnet does not exist.
            TimeoutError: The chain does not answer.
            Exception: Any error of bittensor.
        """
        async with asyncio.timeout(_READ_TIMEOUT_S), self._connect() as client:
            graph = await client.subnets.metagraph(self._netuid, commitments=False)
            if graph is None:
                raise ConfigError(f"there is no subnet {self._netuid} on this chain")
            found = [NeuronInfo(n.uid, n.hotkey, n.total_stake.rao / 1e9, n.validator_permit) for n in graph.neurons]
            self.metagraph = Metagraph(graph.block, time.time(), {each.hotkey: each for each in found})
            self.failures = 0
            try:
                await asyncio.to_thread(_store, self._file, self.metagraph)
            except OSError as error:
                _LOG.error("Cannot store the metagraph in %s: %s", self._file, error)
            mine = graph.by_hotkey(self._hotkey)
            if (mine is not None) != self.registered:
                level, state = (logging.INFO, "registered") if mine else (logging.ERROR, "not registered")
                _LOG.log(level, "%s is %s on subnet %s.", self._hotkey, state, self._netuid)
            self.registered = mine is not None
            self.to_publish = self._endpoint if mine is not None and mine.axon != str(self._endpoint) else None
            if publish and self.to_publish is not None:
                await self._publish(client, self.to_publish)

    async def _publish(self, client: Any, endpoint: AxonEndpoint) -> None:
        """Publish the address. A failure is retried at the next reading, since the chain limits the rate."""
        from bittensor.intents import ServeAxon

        try:
            result = await client.execute(
                ServeAxon(netuid=self._netuid, ip=endpoint.ip, port=endpoint.port), self._wallet
            )
            result.raise_for_failure()
        except Exception as error:
            _LOG.error("Cannot publish %s on subnet %s: %s", endpoint, self._netuid, error)
        else:
            _LOG.info("Published %s on subnet %s.", endpoint, self._netuid)


def _store(file: Path, metagraph: Metagraph) -> None:
    content = {
        "block": metagraph.block,
        "at_s": metagraph.at_s,
        "neurons": [[n.uid, n.hotkey, n.stake, n.validator_permit] for n in metagraph.by_hotkey.values()],
    }
    with replace_file(file, os_errors=True) as draft:  # several miners may share a folder
        draft.write_text(json.dumps(content))


def _load(file: Path) -> Metagraph:
    """Return the stored metagraph, or an empty one. Raises ConfigError if the file cannot be read at all."""
    if (stored := read_state(file)) is None:
        return Metagraph()
    try:
        content = json.loads(stored)
        found = [
            NeuronInfo(int(uid), str(key), float(stake), bool(permit)) for uid, key, stake, permit in content["neurons"]
        ]
        if not all(map(math.isfinite, (content["at_s"], *(each.stake for each in found)))):
            raise ValueError("a number is not finite")
        return Metagraph(int(content["block"]), float(content["at_s"]), {each.hotkey: each for each in found})
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        set_aside(file, stored, "calls are rejected until the chain has been read")
        with contextlib.suppress(OSError):
            file.unlink()
        return Metagraph()
