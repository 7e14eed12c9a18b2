"""Plain FastAPI: one model call at a time in a thread beside the event loop, and a limit on requests in flight.

Parallel calls would share the core that one call keeps busy, and all would be late. uvicorn's own --limit-concurrency
also counts idle connections, so the limit is enforced here.
"""

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Pipeline

arguments = Arguments.from_environment()
pipeline = Pipeline(arguments.model, arguments.threads)
app = FastAPI()
max_in_flight = max(2, arguments.max_in_flight // arguments.workers)
single_call = CapacityLimiter(1)
in_flight = 0


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    """Return the prediction for a photo."""
    global in_flight
    if in_flight >= max_in_flight:
        raise HTTPException(503)
    in_flight += 1
    try:
        return {"probability": await to_thread.run_sync(answer, await request.body(), limiter=single_call)}
    finally:
        in_flight -= 1


def answer(data: bytes) -> float:
    """Run the models."""
    return pipeline.predict([data], [pipeline.classifier.thumb(data)])[0]
