"""Triton by nvidia-pytriton, on the CPU: its dynamic batcher in front of Python functions in this process."""

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.model_config.common import QueuePolicy
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Pipeline
from roadwork_serve.ports import free_port

arguments = Arguments.from_environment()


class Instance:
    """One of the parallel instances that Triton calls."""

    def __init__(self) -> None:
        self._pipeline = Pipeline(arguments.model, arguments.threads)

    @batch
    def __call__(self, photo: NDArray[np.bytes_]) -> dict[str, NDArray[np.float32]]:
        """Classify encoded photos, [n, 1]."""
        bodies = [bytes(row[0]) for row in photo]
        probabilities = self._pipeline.predict(bodies, [self._pipeline.classifier.thumb(data) for data in bodies])
        return {"probability": np.array(probabilities, np.float32)[:, None]}


def main() -> None:
    """Serve until killed."""
    queue_policy = QueuePolicy(
        default_timeout_microseconds=int(1e6 * arguments.queue_timeout_s), max_queue_size=arguments.max_in_flight
    )
    batcher = DynamicBatcher(default_queue_policy=queue_policy)
    ports = {"http_port": arguments.port, "grpc_port": free_port(), "metrics_port": free_port()}
    addresses = {"http_address": "127.0.0.1", "grpc_address": "127.0.0.1", "metrics_address": "127.0.0.1"}
    with Triton(config=TritonConfig(**ports, **addresses)) as triton:
        triton.bind(
            model_name="predict",
            infer_func=[Instance() for _ in range(arguments.workers)],
            inputs=[Tensor(name="photo", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=arguments.workload.batch, batcher=batcher),
            strict=True,
        )
        triton.serve()


if __name__ == "__main__":
    main()
