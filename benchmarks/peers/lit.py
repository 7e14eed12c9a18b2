"""LitServe, batching as its documentation has it: decoding in `decode_request`, the model in `predict`."""

import sys
from typing import Any

import litserve
from fastapi import Request

from benchmarks.peers.model import BATCH, Judge


class Api(litserve.LitAPI):
    """The model, in LitServe's own words."""

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=0.01)
        self._told = model, threads

    def setup(self, device: str) -> None:
        """Load."""
        self._judge = Judge(*self._told)

    async def decode_request(self, request: Request) -> Any:
        """Decode."""
        return self._judge.thumb(await request.body())

    def batch(self, inputs: list[Any]) -> list[Any]:
        """They stay a list."""
        return inputs

    def predict(self, batch: list[Any]) -> list[float]:
        """Judge."""
        return self._judge.judge(batch)

    def unbatch(self, output: list[float]) -> list[float]:
        """They are a list."""
        return output

    def encode_response(self, output: float) -> dict[str, float]:
        """As JSON."""
        return {"probability": output}


if __name__ == "__main__":
    api = Api(sys.argv[2], int(sys.argv[3]))
    litserve.LitServer(api, accelerator="cpu", timeout=False).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
