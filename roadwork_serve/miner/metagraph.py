"""Who is registered on the subnet, as last heard from the chain."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NeuronInfo:
    """stake: in the subnet's alpha, all that counts for it. permit: it may set weights, which is to be a validator."""

    uid: int
    hotkey: str
    stake: float
    permit: bool


@dataclass(frozen=True, slots=True)
class Metagraph:
    """All of a subnet, by hotkey. block: of the chain, when it was so. at_s: when it was heard, epoch seconds."""

    block: int = 0
    at_s: float = 0.0
    by_hotkey: Mapping[str, NeuronInfo] = field(default_factory=dict[str, NeuronInfo])

    def __len__(self) -> int:
        return len(self.by_hotkey)
