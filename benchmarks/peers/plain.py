"""Plain FastAPI: one call of the model a request, in Starlette's pool of threads, and no more requests than fit.

uvicorn's own --limit-concurrency counts connections, those that rest too, so the limit is kept here.
"""

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Whole

told = Arguments.given()
whole = Whole(told.model, told.threads)
app = FastAPI()
most = max(2, told.most // told.workers)
in_work = 0


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    """An answer to a photo."""
    global in_work
    if in_work >= most:
        raise HTTPException(503)
    in_work += 1
    try:
        return {"probability": await run_in_threadpool(answer, await request.body())}
    finally:
        in_work -= 1


def answer(data: bytes) -> float:
    """The work itself."""
    return whole.answers([data], [whole.judge.thumb(data)])[0]
