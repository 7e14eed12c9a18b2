"""Time of a thumbnail in stage 1 of the profile `cpu`, in float32 and in 8 bits: `python -m benchmarks.stage1`.

One thread runs both graphs in turn, with the normalization of the pixels and the patch head, without decoding and RPC.
Times are those of the processor.
"""

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.environment import Environment
from benchmarks.held_out import MODEL, SIDE
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json
from roadwork_serve.engines.cpu_features import has_int8_dot_products
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx_features import OnnxFeatures
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.engines.weights import weights_folder

OUT = RESULTS / "stage1.json"
DTYPES: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Row:
    """The time of a thumbnail."""

    dtype: str
    #: Thumbnails in a call.
    batch: int
    #: Median over the repeats, in milliseconds of a core for each thumbnail.
    ms: float


def measure(repeats: int) -> list[Row]:
    """Time both graphs with batches of each size, in turn."""
    engines = {dtype: OnnxFeatures(weights_folder(MODEL), LoadOptions(dtype=dtype)) for dtype in DTYPES}
    thumbs = {batch: reference_thumbs(SIDE, batch) for batch in BATCHES}
    times: dict[tuple[str, int], list[float]] = {(dtype, batch): [] for dtype in DTYPES for batch in BATCHES}
    for _ in range(repeats):
        for (dtype, batch), found in times.items():
            began = time.process_time()
            engines[dtype].extract(thumbs[batch])
            found.append(1000 * (time.process_time() - began) / batch)
    return [Row(dtype, batch, round(statistics.median(found[1:]), 2)) for (dtype, batch), found in times.items()]


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage1", description=__doc__)
    parser.add_argument("--repeats", type=int, default=30, help="of each size; the first is not counted")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if given.repeats < 2:
        parser.error("--repeats is at least 2")
    if not has_int8_dot_products():
        parser.error("this CPU has no 8-bit dot products (VNNI)")
    rows = measure(given.repeats)
    for row in rows:
        print(f"{row.dtype}, {row.batch:2}: {row.ms} ms a thumbnail")
    command = shlex.join(["python", "-m", "benchmarks.stage1", *sys.argv[1:]])
    write_json(given.out, {"environment": asdict(Environment.here(command)), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
