"""Triton by nvidia-pytriton, on the CPU: its dynamic batcher before Python functions of this process."""

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.model_config.common import QueuePolicy
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Whole
from benchmarks.server import free_port

told = Arguments.given()


class Instance:
    """One that Triton may call beside the others."""

    def __init__(self) -> None:
        self._whole = Whole(told.model, told.threads)

    @batch
    def __call__(self, photo: NDArray[np.bytes_]) -> dict[str, NDArray[np.float32]]:
        """photo: [n, 1], encoded."""
        bodies = [bytes(row[0]) for row in photo]
        said = self._whole.answers(bodies, [self._whole.judge.thumb(data) for data in bodies])
        return {"probability": np.array(said, np.float32)[:, None]}


def main() -> None:
    """Serve until killed."""
    waits = QueuePolicy(default_timeout_microseconds=int(1e6 * told.patience_s), max_queue_size=told.most)
    batcher = DynamicBatcher(default_queue_policy=waits)
    ports = {"http_port": told.port, "grpc_port": free_port(), "metrics_port": free_port()}
    where = {"http_address": "127.0.0.1", "grpc_address": "127.0.0.1", "metrics_address": "127.0.0.1"}
    with Triton(config=TritonConfig(**ports, **where)) as triton:
        triton.bind(
            model_name="predict",
            infer_func=[Instance() for _ in range(told.workers)],
            inputs=[Tensor(name="photo", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=told.work.batch, batcher=batcher),
            strict=True,
        )
        triton.serve()


if __name__ == "__main__":
    main()
