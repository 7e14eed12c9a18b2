"""What the journal costs: a request, to hand its record to the kernel; the journal, to commit records in batches.

Records have 8 KiB of features, as those of a ViT-7B (4,096 numbers), and no picture. Medians of five runs each.
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


def record(name: str, chance: np.random.Generator) -> PredictionRecord:
    """Return an answer of three stages."""
    stages = [
        StageReport(stage=stage, outcome="answered", model="m", probability=0.4, posterior=0.4, compute_ms=20.0)
        for stage in ("backbone", "signs", "vlm")
    ]
    verdict = Verdict(
        answer_id=name, request_id=name, media="photo", label="none", probability=0.4,
        exit=Exit(stage="vlm", reason="last_stage"), stages=stages, policy_version="p", profile="mini", elapsed_ms=90.0,
    )  # fmt: skip
    features = chance.standard_normal((1, 4096)).astype(np.float16)
    return PredictionRecord(
        name, time.time(), verdict, "http", "ann", "", 1, "0" * 64, 100_000, None, features, "dinov3"
    )


def per_record_us(work: Callable[[int], object]) -> float:
    """Microseconds, the median of the runs; work is told which run it is."""
    took: list[float] = []
    for run in range(RUNS):
        began = time.perf_counter()
        work(run)
        took.append(time.perf_counter() - began)
    return 1e6 * statistics.median(took) / RECORDS


def commits_a_second(folder: Path, records: list[PredictionRecord], size: int) -> float:
    """Return the records per second of journals that receive this many at a time."""
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
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/journal.json")
    out: Path = parser.parse_args(arguments).out
    environment = Environment.here("python -m benchmarks.journal")
    busy = os.getloadavg()[0]
    (ROOT / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="journal-", dir=ROOT / "build"))
    try:
        chance = np.random.default_rng(0)
        records = [record(f"{number:05d}", chance) for number in range(RECORDS)]
        coded = [encode(each) for each in records]
        spool = Spool(folder / "spool/one", 10**9)
        figures = {
            "busy_processes_before": round(busy, 1),
            "record_bytes": len(coded[0]),
            "encode_us": per_record_us(lambda _: [encode(each) for each in records]),
            "append_us": per_record_us(lambda _: [spool.append(each) for each in coded]),
            "decode_us": per_record_us(lambda _: [decode(each) for each in coded]),
            "sqlite_records_a_second_by_batch": {size: commits_a_second(folder, records, size) for size in BATCHES},
        }
        spool.close()
        write_json(out, {"environment": asdict(environment), **figures})
        print(figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
