"""`make bench-transport`: Ray Serve's own proxy against `--fast`, beside each other on this machine.

Both servers run at once over stand-ins without models and are asked in turn, round after round, by clients that each
send the next request when they have an answer. Every picture leaves at stage 1, which takes no time, so what is
measured is the way there and back with reading the picture. The client shares the machine's cores.
"""

import argparse
import asyncio
import json
import sys
import tempfile
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
from benchmarks.server import ROOT, free_port, started
from roadwork_serve.haproxy import fast_environment

MODES = ("default", "fast")
CONCURRENCIES = (1, 16)
WARM = 20  # requests before each round, not measured


@dataclass(frozen=True, slots=True)
class Round:
    """Of one case in one round."""

    per_s: float
    p50_ms: float
    p99_ms: float
    own_cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds. own_cpu: of a core, what the client took."""

    mode: str
    body: str
    bytes: int
    concurrency: int
    per_s: float
    p50_ms: float
    p99_ms: float
    own_cpu: float
    rounds: tuple[Round, ...]


def bodies() -> dict[str, bytes]:
    """Return a JPEG of some 10 kB and one of some 300 kB, larger and more detailed."""
    return {"small": _jpeg(320, 240, 8, 80), "300 kB": _jpeg(1280, 960, 13, 80)}


def _jpeg(width: int, height: int, grain: float, quality: int) -> bytes:
    dice = np.random.default_rng(0)
    shade = np.linspace(60, 200, width)[None, :, None] + dice.normal(0, grain, (height, width, 3))
    file = BytesIO()
    Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def fast(folder: Path) -> dict[str, str]:
    """Return the environment of `roadwork serve --fast`, with free ports."""
    ports = ("HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "FALLBACK_PROXY_HTTP_PORT")
    return fast_environment(folder, ROOT / "ops/haproxy/haproxy.sh") | {
        f"RAY_SERVE_{name}": str(free_port()) for name in ports
    }


async def measured(url: str, body: bytes, concurrency: int, seconds: float) -> Round:
    """One round of one case. Raises RuntimeError when an answer is not a verdict of stage 1."""
    took: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            began = time.perf_counter()
            async with session.post(f"{url}/v1/classify", data=body, headers={"Content-Type": "image/jpeg"}) as reply:
                answer = await reply.json()
                if reply.status != 200 or answer["exit"]["stage"] != "backbone":
                    raise RuntimeError(f"{reply.status}: {answer}")
            took.append(time.perf_counter() - began)

        async def ask_until(end: float) -> None:
            while time.perf_counter() < end:
                await ask()

        for _ in range(WARM):
            await ask()
        took.clear()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(ask_until(began + seconds) for _ in range(concurrency)))
        elapsed = time.perf_counter() - began
    took.sort()
    own_cpu = (time.process_time() - cpu) / elapsed
    p50_s, p99_s = (quantile(took, part) or 0.0 for part in (0.5, 0.99))
    return Round(len(took) / elapsed, 1000 * p50_s, 1000 * p99_s, own_cpu)


def compared(urls: dict[str, str], rounds: int, seconds: float) -> Iterator[Row]:
    """Every case; the servers take turns within each."""
    for name, body in bodies().items():
        for concurrency in CONCURRENCIES:
            found: dict[str, list[Round]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode in MODES:
                    found[mode].append(asyncio.run(measured(urls[mode], body, concurrency, seconds)))
            for mode, each in found.items():
                middle = (
                    median(getattr(one, what) for one in each) for what in ("per_s", "p50_ms", "p99_ms", "own_cpu")
                )
                yield Row(mode, name, len(body), concurrency, *middle, rounds=tuple(each))


def table(rows: list[Row]) -> Table:
    """For people."""
    view = Table(title="POST /v1/classify, leaving at a stage 1 that takes no time")
    for heading in ("body", "bytes", "at once", "mode", "requests/s", "p50 ms", "p99 ms", "client CPU"):
        view.add_column(heading, justify="left" if heading in ("body", "mode") else "right")
    for row in rows:
        view.add_row(
            row.body, f"{row.bytes:,}", str(row.concurrency), row.mode,
            f"{row.per_s:.0f}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}", f"{row.own_cpu:.0%}",
        )  # fmt: skip
    return view


def main(arguments: list[str] | None = None) -> int:
    """0 when everything was measured."""
    parser = argparse.ArgumentParser("python -m benchmarks.transport", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round of each case")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/transport.json")
    chosen = parser.parse_args(arguments)
    command = " ".join(["python -m benchmarks.transport", *(sys.argv[1:] if arguments is None else arguments)])
    environment, console = Environment.here(command), Console(width=110)
    args = {"profile": "mini", "overrides": overrides({}, sure=1)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rw-")))
        settings = {"default": {}, "fast": fast(folder)}
        console.print("Starting two servers ...")
        urls = {
            mode: stack.enter_context(started(ROOT / f"build/transport-{mode}.log", args, settings[mode], BUILDER)).url
            for mode in MODES
        }
        rows = list(compared(urls, chosen.rounds, chosen.seconds))
    console.print(table(rows))
    result = {"environment": asdict(environment), "rows": [asdict(row) for row in rows]}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {chosen.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
