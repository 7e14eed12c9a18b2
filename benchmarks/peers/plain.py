"""Plain FastAPI: one call of the model a request, in Starlette's pool of threads."""

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Whole

told = Arguments.given()
whole = Whole(told.model, told.threads)
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    """An answer to a photo."""
    return {"probability": await run_in_threadpool(answer, await request.body())}


def answer(data: bytes) -> float:
    """The work itself."""
    return whole.answers([data], [whole.judge.thumb(data)])[0]
