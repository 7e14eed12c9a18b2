"""What the chain says of the subnet, read in the background, and what it is told of this miner.

Nothing here is waited for by a call: whoever asks is judged by the metagraph that was read last, over restarts, too.
"""

import asyncio
import ipaddress
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.metagraph import Metagraph, NeuronInfo

_LOG = logging.getLogger("roadwork.miner.chain")
_PATIENCE_S = 90.0  # for one reading, connecting and all
_AGAIN_S = 5.0  # until the next try after a failed one, doubling
_STALE = 3  # readings missed in a row
Connect = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class AxonEndpoint:
    """Where validators reach this miner, for the chain to tell them."""

    ip: str
    port: int

    def __post_init__(self) -> None:
        try:
            address = ipaddress.ip_address(self.ip)
        except ValueError:
            raise ConfigError(f"{self.ip} is no IP address to publish; give the one validators reach you at") from None
        object.__setattr__(self, "ip", str(address))  # as the chain spells it
        if address.is_unspecified or address.is_loopback:
            raise ConfigError(f"{self.ip} cannot be reached by anybody else; give the address validators reach you at")

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class Chain:
    """connect: opens a `bittensor.Client`. file: keeps the last metagraph. wallet: whose hotkey publishes `place`.

    registered: whether the hotkey is on the subnet; None before that is known.
    """

    def __init__(
        self,
        connect: Connect,
        netuid: int,
        hotkey: str,
        file: Path,
        refresh_s: float = 300.0,
        place: AxonEndpoint | None = None,
        wallet: Any = None,
    ) -> None:
        self._connect = connect
        self._netuid = netuid
        self._hotkey = hotkey
        self._file = file
        self._refresh_s = refresh_s
        self._place = place
        self._wallet = wallet
        self.neurons = _kept(file)
        self.registered: bool | None = hotkey in self.neurons.by_hotkey if len(self.neurons) else None
        self.to_publish: AxonEndpoint | None = None  # where the chain says another
        self.failures = 0

    @property
    def age_s(self) -> float:
        """Of the metagraph that calls are judged by."""
        return time.time() - self.neurons.at_s

    @property
    def stale(self) -> bool:
        """Several readings in a row are missing."""
        return self.age_s > _STALE * self._refresh_s

    async def run(self) -> None:
        """Read again and again, until cancelled; after a failure sooner, and then ever later."""
        while True:
            try:
                await self.look()
            except Exception as error:
                self.failures += 1
                how = f"the metagraph in use is {self.age_s:.0f} s old" if len(self.neurons) else "there is none to use"
                told = f"The chain cannot be read (try {self.failures}): {error or type(error).__name__}; {how}."
                _LOG.log(logging.ERROR if self.stale else logging.WARNING, told)
            await asyncio.sleep(self.wait_s)

    @property
    def wait_s(self) -> float:
        """Until the next reading."""
        return min(self._refresh_s, _AGAIN_S * 2 ** min(self.failures - 1, 16)) if self.failures else self._refresh_s

    async def look(self, publish: bool = True) -> None:
        """Read the metagraph, keep it, and publish where this miner is, where the chain says something else.

        publish: False only reads. Raises what bittensor raises, TimeoutError, and ConfigError when there is no such
        subnet.
        """
        async with asyncio.timeout(_PATIENCE_S), self._connect() as client:
            graph = await client.subnets.metagraph(self._netuid, commitments=False)
            if graph is None:
                raise ConfigError(f"there is no subnet {self._netuid} on this chain")
            found = [NeuronInfo(n.uid, n.hotkey, n.total_stake.rao / 1e9, n.validator_permit) for n in graph.neurons]
            self.neurons = Metagraph(graph.block, time.time(), {each.hotkey: each for each in found})
            self.failures = 0
            try:
                await asyncio.to_thread(_keep, self._file, self.neurons)
            except OSError as error:
                _LOG.error(f"The metagraph cannot be kept for the next start in {self._file}: {error}")
            mine = graph.by_hotkey(self._hotkey)
            if (mine is not None) != self.registered:
                how = "registered" if mine else "not registered"
                _LOG.log(logging.INFO if mine else logging.ERROR, f"{self._hotkey} is {how} on subnet {self._netuid}.")
            self.registered = mine is not None
            self.to_publish = self._place if mine is not None and mine.axon != str(self._place) else None
            if publish and self.to_publish is not None:
                await self._publish(client, self.to_publish)

    async def _publish(self, client: Any, place: AxonEndpoint) -> None:
        """What goes wrong is tried again with the next reading: the chain limits how often."""
        from bittensor.intents import ServeAxon

        try:
            result = await client.execute(ServeAxon(netuid=self._netuid, ip=place.ip, port=place.port), self._wallet)
            result.raise_for_failure()
        except Exception as error:
            _LOG.error(f"{place} cannot be published on subnet {self._netuid}: {error}")
        else:
            _LOG.info(f"{place} is published on subnet {self._netuid}.")


def _keep(file: Path, neurons: Metagraph) -> None:
    told = {
        "block": neurons.block,
        "at_s": neurons.at_s,
        "neurons": [[n.uid, n.hotkey, n.stake, n.permit] for n in neurons.by_hotkey.values()],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.new")  # several miners may share a folder
    draft.write_text(json.dumps(told))
    os.replace(draft, file)


def _kept(file: Path) -> Metagraph:
    """What was read before, or nothing."""
    try:
        told = json.loads(file.read_text())
        found = [
            NeuronInfo(int(uid), str(key), float(stake), bool(permit)) for uid, key, stake, permit in told["neurons"]
        ]
        return Metagraph(int(told["block"]), float(told["at_s"]), {each.hotkey: each for each in found})
    except FileNotFoundError:
        return Metagraph()
    except (OSError, ValueError, KeyError, TypeError):
        _LOG.warning("%s cannot be read; the metagraph is read from the chain first.", file)
        return Metagraph()
