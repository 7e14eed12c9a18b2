"""Measure the cost of the journal: per request to write a record to the spool, and in the journal to commit batches.

Records carry 8 KiB of features, like those of a ViT-7B (4,096 numbers), and no image. Medians of five runs.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.environment import Environment
from benchmarks.server import ROOT
from roadwork_serve.atomic_write import write_json
from roadwork_serve.journal.coding import decode, encode
from roadwork_serve.journal.record import PredictionRecord
from roadwork_serve.journal.spool import Spool
from roadwork_serve.journal.store import Store
from roadwork_serve.schema import Exit, StageReport, Verdict

RUNS, RECORDS = 5, 1024
BATCHES = (1, 32, 256)


def record(name: str, rng: np.random.Generator) -> PredictionRecord:
    """Return the record of a prediction by three stages."""
    stages = [
        StageReport(stage=stage, outcome="answered", model="m", probability=0.4, posterior=0.4, compute_ms=20.0)
        for stage in ("backbone", "signs", "vlm")
    ]
    verdict = Verdict(
        answer_id=name, request_id=name, media="photo", label="none", probability=0.4,
        exit=Exit(stage="vlm", reason="last_stage"), stages=stages, policy_version="p", profile="mini", elapsed_ms=90.0,
    )  # fmt: skip
    features = rng.standard_normal((1, 4096)).astype(np.float16)
    return PredictionRecord(
        name, time.time(), verdict, "http", "ann", "", 1, "0" * 64, 100_000, None, features, "dinov3"
    )


def per_record_us(work: Callable[[int], object]) -> float:
    """Return the median time per record in microseconds; `work` receives the number of the run."""
    durations: list[float] = []
    for run in range(RUNS):
        began = time.perf_counter()
        work(run)
        durations.append(time.perf_counter() - began)
    return 1e6 * statistics.median(durations) / RECORDS


def commits_per_s(folder: Path, records: list[PredictionRecord], size: int) -> float:
    """Return the records per second of a journal that receives batches of this size."""
    stores = [Store.open(f"sqlite:///{folder}/{size}-{run}.db") for run in range(RUNS)]

    def commit(run: int) -> None:
        for begin in range(0, RECORDS, size):
            stores[run].commit(records[begin : begin + size])

    try:
        return 1e6 / per_record_us(commit)
    finally:
        for store in stores:
            store.close()


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/journal.json", help="result file")
    out: Path = parser.parse_args(arguments).out
    environment = Environment.here("python -m benchmarks.journal")
    load_average = os.getloadavg()[0]
    (ROOT / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="journal-", dir=ROOT / "build"))
    try:
        rng = np.random.default_rng(0)
        records = [record(f"{number:05d}", rng) for number in range(RECORDS)]
        encoded = [encode(each) for each in records]
        spool = Spool(folder / "spool/one", 10**9)
        figures = {
            "load_average_before": round(load_average, 1),
            "record_bytes": len(encoded[0]),
            "encode_us": per_record_us(lambda _: [encode(each) for each in records]),
            "append_us": per_record_us(lambda _: [spool.append(each) for each in encoded]),
            "decode_us": per_record_us(lambda _: [decode(each) for each in encoded]),
            "sqlite_records_per_s_by_batch": {size: commits_per_s(folder, records, size) for size in BATCHES},
        }
        spool.close()
        write_json(out, {"environment": asdict(environment), **figures})
        print(figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
