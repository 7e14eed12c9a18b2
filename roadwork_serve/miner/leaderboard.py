"""Standings of hotkeys on the subnet, from its metagraph."""

from collections.abc import Sequence
from dataclasses import dataclass

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.chain import Connect

_BLOCK_S = 12.0


@dataclass(frozen=True, slots=True)
class NeuronStanding:
    """The standing of one neuron."""

    uid: int
    hotkey: str
    #: 1 for the highest incentive, counting validators too; None without incentive.
    rank: int | None
    #: Share of the miners' emission.
    incentive: float
    trust: float
    consensus: float
    #: Alpha per tempo.
    emission: float
    #: Total stake in alpha.
    stake: float
    validator_permit: bool
    active: bool
    #: Time since it last set weights or was registered, in seconds.
    updated_s: float
    #: Published address; None without one.
    axon: str | None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The standings of a subnet at a block."""

    netuid: int
    name: str
    block: int
    tempo: int
    #: Number of registered neurons.
    neurons: int
    #: Number of neurons with incentive.
    paid: int
    #: TAO for one alpha; None if the subnet has no pool.
    price: float | None
    #: The neurons with the highest incentive.
    top: tuple[NeuronStanding, ...]
    #: The requested hotkeys.
    requested: tuple[NeuronStanding, ...]
    #: Requested hotkeys that are not registered.
    missing: tuple[str, ...]


async def leaderboard(connect: Connect, netuid: int, hotkeys: Sequence[str], top: int) -> Leaderboard:
    """Read the standings of the best neurons and of the requested hotkeys.

    Args:
        connect: Opens a client of the chain.
        netuid: Number of the subnet.
        hotkeys: The requested hotkeys.
        top: Number of best neurons.

    Raises:
        ConfigError: The subnet does not exist.
        Exception: Any error of bittensor.
    """
    async with connect() as client:
        graph = await client.subnets.metagraph(netuid, commitments=False)
    if graph is None:
        raise ConfigError(f"there is no subnet {netuid} on this chain")
    ordered = sorted(graph.neurons, key=lambda each: (-each.incentive, each.uid))
    found = {
        each.hotkey: NeuronStanding(
            each.uid,
            each.hotkey,
            rank if each.incentive > 0 else None,
            each.incentive,
            each.trust,
            each.consensus,
            each.emission.rao / 1e9,
            each.total_stake.rao / 1e9,
            each.validator_permit,
            each.active,
            _BLOCK_S * max(0, graph.block - each.last_update),
            each.axon,
        )
        for rank, each in enumerate(ordered, 1)
    }
    paid = [each for each in found.values() if each.rank is not None]
    return Leaderboard(
        netuid,
        graph.name,
        graph.block,
        graph.tempo,
        len(found),
        len(paid),
        graph.price,
        tuple(paid[:top]),
        tuple(found[hotkey] for hotkey in hotkeys if hotkey in found),
        tuple(hotkey for hotkey in hotkeys if hotkey not in found),
    )
