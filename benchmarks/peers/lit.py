"""LitServe, batched as in its documentation: decoding in `decode_request`, the models in `predict`."""

from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Pipeline


class Api(litserve.LitAPI):
    """The models behind LitServe's interface."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(max_batch_size=arguments.workload.batch, batch_timeout=0.01)
        self._arguments = arguments

    def setup(self, device: str) -> None:
        """Load the models."""
        self._pipeline = Pipeline(self._arguments.model, self._arguments.threads)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Any:
        """Decode a photo."""
        return request, self._pipeline.classifier.thumb(request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Keep the inputs as a list."""
        return inputs

    def predict(self, batch: Any) -> Any:
        """Classify. With a batch size of one LitServe passes and expects a single item."""
        if self.max_batch_size == 1:
            data, thumb = batch
            return self._pipeline.predict([data], [thumb])[0]
        return self._pipeline.predict([data for data, _ in batch], [thumb for _, thumb in batch])

    def unbatch(self, output: list[float]) -> list[float]:
        """Keep the outputs as a list."""
        return output

    def encode_response(self, output: float) -> dict[str, float]:
        """Return the response."""
        return {"probability": output}


if __name__ == "__main__":
    arguments = Arguments.from_environment()
    server = litserve.LitServer(
        Api(arguments), accelerator="cpu", workers_per_device=arguments.workers, timeout=arguments.queue_timeout_s
    )
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")
