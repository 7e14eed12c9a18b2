"""The workloads: a backbone and the engine that runs it, with or without the sign reader, on all cores or on one."""

from dataclasses import dataclass, replace
from typing import Literal

Backend = Literal["onnx", "transformers"]  # as a profile names ONNX Runtime and PyTorch

#: Factor on the limit of a workload at saturation, where a server rejects nothing.
RELAXED_LIMIT = 6
BUNDLED, CASCADE, SMALL, LARGE = "bundled", "cascade", "vit-s", "vit-l"


def as_shipped(name: str) -> str:
    """Return the name of the same workload with what this server ships: 8 bits, and the text gate of its policy.

    The others run float32 and read the signs of every photo on which stage 1 is unsure.
    """
    return f"{name}, as shipped"


@dataclass(frozen=True, slots=True)
class Engine:
    """The backend and the type of the weights, as an engine of a profile."""

    backend: Backend
    dtype: Literal["float32", "auto"] = "float32"


INT8, FLOAT32, TORCH = Engine("onnx", "auto"), Engine("onnx"), Engine("transformers")


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a server."""

    #: Photos per forward pass.
    batch: int
    #: Latency above which an answer is late.
    limit_s: float
    #: BUNDLED, or one of random weights: SMALL or LARGE.
    backbone: str = BUNDLED
    #: Runs the backbone in the bare loop and in the other servers.
    engine: Engine = INT8
    #: Runs the backbone in this project's server.
    own_engine: Engine = INT8
    #: Whether the sign reader reads photos on which the backbone is unsure.
    reads_signs: bool = False
    #: Whether this project's server asks its sign reader only where stage 1 expects text, as its shipped policy does.
    own_text_gate: bool = False
    #: Whether a server, or the bare loop, has one core, and the client another.
    one_core: bool = False
    #: Factor on the duration of measurements.
    pace: float = 1.0

    def clients(self, workers: int, per_s: float) -> int:
        """Return the number of closed-loop clients that saturate this many workers.

        A batch in each worker, one being formed, and two requests on their way. But no more than can be answered in
        half the relaxed limit at the throughput of the bare loop, because this does not measure how a server sheds
        load.
        """
        in_time = round(0.5 * RELAXED_LIMIT * self.limit_s * per_s)
        return max(workers + 2, min(self.batch * (workers + 1) + 2, in_time))


def on_one_core(name: str) -> str:
    """Return the name of the same workload on one core."""
    return f"{name}, one core"


# 500 ms where a core of a small machine can meet it; batches that take a core well under half the limit.
ON_ALL_CORES = {
    BUNDLED: Workload(8, 0.5),
    as_shipped(BUNDLED): Workload(8, 0.5, engine=FLOAT32),
    CASCADE: Workload(8, 2.0, reads_signs=True, pace=2.0),
    as_shipped(CASCADE): Workload(8, 2.0, reads_signs=True, own_text_gate=True, pace=2.0, engine=FLOAT32),
    SMALL: Workload(1, 0.5, SMALL, TORCH, TORCH, pace=2.0),
    LARGE: Workload(1, 10.0, LARGE, TORCH, TORCH, pace=4.0),
}
WORKLOADS = ON_ALL_CORES | {on_one_core(name): replace(each, one_core=True) for name, each in ON_ALL_CORES.items()}
