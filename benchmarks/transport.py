"""Compare HAProxy, the default, with Ray Serve's own proxy (`--no-haproxy`), on this machine: `make bench-transport`.

Both servers run at the same time, with fake models. Closed-loop clients load them alternately, in several rounds. Every
image exits at stage 1, which takes no time, so this measures the round trip including decoding. The client shares the
cores of the machine.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from statistics import median

import aiohttp
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.figures import quantile
from benchmarks.environment import Environment
from benchmarks.fake_models import BUILDER, overrides
from benchmarks.server import ROOT, started
from roadwork_serve.haproxy import NO_HAPROXY

MODES: dict[str, dict[str, str]] = {"default": {}, "no-haproxy": NO_HAPROXY}
CONCURRENCIES = (1, 16)
WARMUP = 20  # requests before each round, not measured


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one case in one round."""

    per_s: float
    p50_ms: float
    p99_ms: float
    #: Cores used by the client.
    client_cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds."""

    mode: str
    body: str
    bytes: int
    concurrency: int
    per_s: float
    p50_ms: float
    p99_ms: float
    #: Cores used by the client.
    client_cpu: float
    rounds: tuple[Round, ...]


def bodies() -> dict[str, bytes]:
    """Return a JPEG of about 10 kB and one of about 300 kB, larger and more detailed."""
    return {"small": _jpeg(320, 240, 8, 80), "300 kB": _jpeg(1280, 960, 13, 80)}


def _jpeg(width: int, height: int, grain: float, quality: int) -> bytes:
    rng = np.random.default_rng(0)
    shade = np.linspace(60, 200, width)[None, :, None] + rng.normal(0, grain, (height, width, 3))
    file = BytesIO()
    Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


async def run_round(url: str, body: bytes, concurrency: int, seconds: float) -> Round:
    """Run one round of one case. Raises RuntimeError if a response is not a verdict of stage 1."""
    durations: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def request() -> None:
            began = time.perf_counter()
            async with session.post(f"{url}/v1/classify", data=body, headers={"Content-Type": "image/jpeg"}) as reply:
                answer = await reply.json()
                if reply.status != 200 or answer["exit"]["stage"] != "backbone":
                    raise RuntimeError(f"{reply.status}: {answer}")
            durations.append(time.perf_counter() - began)

        async def request_until(end: float) -> None:
            while time.perf_counter() < end:
                await request()

        for _ in range(WARMUP):
            await request()
        durations.clear()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(request_until(began + seconds) for _ in range(concurrency)))
        elapsed = time.perf_counter() - began
    durations.sort()
    client_cpu = (time.process_time() - cpu) / elapsed
    p50_s, p99_s = (quantile(durations, part) or 0.0 for part in (0.5, 0.99))
    return Round(len(durations) / elapsed, 1000 * p50_s, 1000 * p99_s, client_cpu)


def compare(urls: dict[str, str], rounds: int, seconds: float) -> Iterator[Row]:
    """Yield the rows of every case; within a case the servers alternate."""
    for name, body in bodies().items():
        for concurrency in CONCURRENCIES:
            rounds_by_mode: dict[str, list[Round]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode in MODES:
                    rounds_by_mode[mode].append(asyncio.run(run_round(urls[mode], body, concurrency, seconds)))
            for mode, mode_rounds in rounds_by_mode.items():
                medians = (
                    median(getattr(one, name) for one in mode_rounds)
                    for name in ("per_s", "p50_ms", "p99_ms", "client_cpu")
                )
                yield Row(mode, name, len(body), concurrency, *medians, rounds=tuple(mode_rounds))


def table(rows: list[Row]) -> Table:
    """Return a table of the results."""
    view = Table(title="POST /v1/classify, exiting at a stage 1 that takes no time")
    for heading in ("body", "bytes", "concurrency", "mode", "requests/s", "p50 ms", "p99 ms", "client CPU"):
        view.add_column(heading, justify="left" if heading in ("body", "mode") else "right")
    for row in rows:
        view.add_row(
            row.body, f"{row.bytes:,}", str(row.concurrency), row.mode,
            f"{row.per_s:.0f}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}", f"{row.client_cpu:.0%}",
        )  # fmt: skip
    return view


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and write the result. Returns 0."""
    parser = argparse.ArgumentParser("python -m benchmarks.transport", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of a round in seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/transport.json", help="result file")
    options = parser.parse_args(arguments)
    command = " ".join(["python -m benchmarks.transport", *(sys.argv[1:] if arguments is None else arguments)])
    environment, console = Environment.here(command), Console(width=110)
    args = {"profile": "mini", "overrides": overrides({}, sure=1)}
    with ExitStack() as stack:
        console.print("Starting two servers ...")
        urls = {
            mode: stack.enter_context(
                started(ROOT / f"build/transport-{mode}.log", args, settings, BUILDER, settled=True)
            ).url
            for mode, settings in MODES.items()
        }
        rows = list(compare(urls, options.rounds, options.seconds))
    console.print(table(rows))
    result = {"environment": asdict(environment), "rows": [asdict(row) for row in rows]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {options.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
