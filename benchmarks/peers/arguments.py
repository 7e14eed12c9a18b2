"""The arguments of a server, passed in an environment variable that its processes inherit."""

import json
import os
from dataclasses import asdict, dataclass

from benchmarks.peers.workloads import WORKLOADS, Workload

VARIABLE = "ROADWORK_PEER"


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a server."""

    port: int
    model: str
    #: Processes with their own model, or the equivalent of the server.
    workers: int
    #: Threads of each.
    threads: int
    #: Latency above which an answer is late.
    limit_s: float
    #: Most requests in flight that can be answered in time.
    max_in_flight: int

    @property
    def workload(self) -> Workload:
        """The workload of the model."""
        return WORKLOADS[self.model]

    @property
    def first_stage_workers(self) -> int:
        """Workers of the first stage, if stages are separate processes.

        With the sign reader more of them would compete with the second stage, and have smaller batches.
        """
        return max(1, self.workers // 2) if self.workload.reads_signs else self.workers

    @property
    def queue_timeout_s(self) -> float:
        """Longest wait in a queue after which an answer can still be in time."""
        return 0.6 * self.limit_s

    def to_environment(self) -> dict[str, str]:
        """Return the environment variable for `from_environment`."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Arguments":
        """Return the arguments of this process."""
        return cls(**json.loads(os.environ[VARIABLE]))
