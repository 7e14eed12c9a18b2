"""LitServe, batching as its documentation has it: decoding in `decode_request`, the models in `predict`."""

from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Whole


class Api(litserve.LitAPI):
    """The models, in LitServe's own words."""

    def __init__(self, told: Arguments) -> None:
        super().__init__(max_batch_size=told.work.batch, batch_timeout=0.01)
        self._told = told

    def setup(self, device: str) -> None:
        """Load."""
        self._whole = Whole(self._told.model, self._told.threads)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Any:
        """Decode."""
        return request, self._whole.judge.thumb(request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        """They stay a list."""
        return inputs

    def predict(self, batch: Any) -> Any:
        """Judge. Where batches are of one LitServe gives what is in them, and wants that back."""
        if self.max_batch_size == 1:
            data, thumb = batch
            return self._whole.answers([data], [thumb])[0]
        return self._whole.answers([data for data, _ in batch], [thumb for _, thumb in batch])

    def unbatch(self, output: list[float]) -> list[float]:
        """They are a list."""
        return output

    def encode_response(self, output: float) -> dict[str, float]:
        """As JSON."""
        return {"probability": output}


if __name__ == "__main__":
    told = Arguments.given()
    server = litserve.LitServer(Api(told), accelerator="cpu", workers_per_device=told.workers, timeout=told.patience_s)
    server.run(host="127.0.0.1", port=told.port, generate_client_file=False, log_level="warning")
