"""How hotkeys stand on the subnet, as its metagraph says."""

from collections.abc import Sequence
from dataclasses import dataclass

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.chain import Connect

_BLOCK_S = 12.0


@dataclass(frozen=True, slots=True)
class NeuronStanding:
    """One neuron. place: 1 for the highest incentive, None for one that earns none; validators count, too.

    incentive: its share of what miners are paid. emission: alpha a tempo. updated_s: since it last set weights or was
    registered. axon: where it says it can be reached.
    """

    uid: int
    hotkey: str
    place: int | None
    incentive: float
    trust: float
    consensus: float
    emission: float
    stake: float
    permit: bool
    active: bool
    updated_s: float
    axon: str | None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """A subnet at a block. paid: how many earn any incentive. price: TAO for one alpha; None where it has no pool.

    missing: hotkeys that were asked for and are not registered.
    """

    netuid: int
    name: str
    block: int
    tempo: int
    neurons: int
    paid: int
    price: float | None
    top: tuple[NeuronStanding, ...]
    asked: tuple[NeuronStanding, ...]
    missing: tuple[str, ...]


async def leaderboard(connect: Connect, netuid: int, hotkeys: Sequence[str], top: int) -> Leaderboard:
    """The best `top` and those asked for. Raises ConfigError for no such subnet, and what bittensor raises."""
    async with connect() as client:
        graph = await client.subnets.metagraph(netuid, commitments=False)
    if graph is None:
        raise ConfigError(f"there is no subnet {netuid} on this chain")
    ordered = sorted(graph.neurons, key=lambda each: (-each.incentive, each.uid))
    found = {
        each.hotkey: NeuronStanding(
            each.uid,
            each.hotkey,
            place if each.incentive > 0 else None,
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
        for place, each in enumerate(ordered, 1)
    }
    paid = [each for each in found.values() if each.place is not None]
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
