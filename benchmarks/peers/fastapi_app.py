"""Plain FastAPI: one call of the model a request in a thread beside the event loop, and no more requests than fit.

One call at a time: many would share the core that one keeps busy, and all be late together. uvicorn's own
--limit-concurrency counts connections, those that rest too, so the limit is kept here.
"""

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Whole

told = Arguments.given()
whole = Whole(told.model, told.threads)
app = FastAPI()
most = max(2, told.most // told.workers)
one = CapacityLimiter(1)
in_flight = 0


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    """Return an answer to a photo."""
    global in_flight
    if in_flight >= most:
        raise HTTPException(503)
    in_flight += 1
    try:
        return {"probability": await to_thread.run_sync(answer, await request.body(), limiter=one)}
    finally:
        in_flight -= 1


def answer(data: bytes) -> float:
    """Return the work itself."""
    return whole.answers([data], [whole.judge.thumb(data)])[0]
