"""The metagraph: the neurons of the subnet, as last read from the chain."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NeuronInfo:
    """A neuron of the subnet."""

    uid: int
    #: ss58 address.
    hotkey: str
    #: Total stake in the subnet's alpha.
    stake: float
    #: True for a validator: the neuron may set weights.
    validator_permit: bool


@dataclass(frozen=True, slots=True)
class Metagraph:
    """All neurons of a subnet."""

    #: Block at which it was read.
    block: int = 0
    #: Time at which it was read, in seconds since the epoch.
    at_s: float = 0.0
    by_hotkey: Mapping[str, NeuronInfo] = field(default_factory=dict[str, NeuronInfo])

    def __len__(self) -> int:
        return len(self.by_hotkey)
