"""Plain FastAPI: a function in Starlette's pool of threads, one call of the model a request."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.model import Judge


def main(port: int, model: str, threads: int) -> None:
    """Serve until killed."""
    judge, app = Judge(model, threads), FastAPI()

    def answer(data: bytes) -> float:
        return judge.judge([judge.thumb(data)])[0]

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return {"probability": await run_in_threadpool(answer, await request.body())}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
