"""`python -m benchmarks.peers.bare MODEL SIZE THREADS SECONDS`: the loop that no server can beat, as JSON."""

import json
import sys
import time

from benchmarks.peers.model import BATCH, Judge
from benchmarks.peers.pictures import pictures


def bare(model: str, size: str, threads: int, seconds: float) -> dict[str, float]:
    """Images a second of decoding and judging, sixteen at a time in one process, and how much of it is decoding."""
    judge, bodies = Judge(model, threads), pictures(size, BATCH)
    judge.judge([judge.thumb(data) for data in bodies])
    count, decoding_s, began = 0, 0.0, time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        thumbs = [judge.thumb(data) for data in bodies]
        decoding_s += time.monotonic() - now
        judge.judge(thumbs)
        count += len(bodies)
    took_s = time.monotonic() - began
    return {"per_s": count / took_s, "decoding": decoding_s / took_s}


if __name__ == "__main__":
    print(json.dumps(bare(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
