"""What a server here is told, by its environment, which the processes it starts inherit."""

import json
import os
from dataclasses import asdict, dataclass

from benchmarks.peers.model import CASCADE, WORKS, Work

VARIABLE = "ROADWORK_PEER"


@dataclass(frozen=True, slots=True)
class Arguments:
    """workers: processes with a model of their own each, or what a server has in their place; threads: of each.

    limit_s: an answer that takes longer is late. most: requests that can be in work at once and be in time.
    """

    port: int
    model: str
    workers: int
    threads: int
    limit_s: float
    most: int

    @property
    def work(self) -> Work:
        """What is asked of it."""
        return WORKS[self.model]

    @property
    def first(self) -> int:
        """Workers of the first stage, if stages are separate processes.

        In the cascade more of them would compete with those of the second stage, and have smaller batches.
        """
        return max(1, self.workers // 2) if self.model == CASCADE else self.workers

    @property
    def patience_s(self) -> float:
        """What may wait in a queue and still be in time when it has been answered, seconds."""
        return 0.6 * self.limit_s

    def to_environment(self) -> dict[str, str]:
        """For `given`."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def given(cls) -> "Arguments":
        """Return the arguments of this process."""
        return cls(**json.loads(os.environ[VARIABLE]))
