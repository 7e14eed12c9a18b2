"""`python -m benchmarks.decode`: a 12-megapixel JPEG to what stage 1 looks at, by several decoders.

The pictures are scenes of the test track, enlarged to 4000x3000 with a sensor's noise on them, quality 90, some 4 MB
each. Every way ends with the same uint8 [side, side, 3], squashed to a square and antialiased, on one thread. The ways
take turns on every picture; times are of the processor. How far each is from Pillow's full decode is told as well.
simplejpeg is a binding of libjpeg-turbo; without it that way is left out (`pip install simplejpeg`).
"""

import argparse
import io
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import resize

from benchmarks.environment import Environment
from roadwork_serve import media
from roadwork_serve.atomic_write import write_json
from roadwork_serve.media import Photo
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.testbed.scene_dataset import draw_scene

OUT = Path("benchmarks/results/decode.json")
SIZE, QUALITY, NOISE = (4000, 3000), 90, 6.0
SEED = 9_401_000_000
Way = Callable[[bytes], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Took:
    """Of a way over all pictures and repeats. off: levels of 255 from Pillow's full decode, mean and most."""

    median_ms: float
    least_ms: float
    most_ms: float
    times_faster: float
    mean_off: float
    most_off: int


def ways(side: int) -> Mapping[str, Way]:
    """By name; the first is what the others are compared with."""
    limits = load_profile("mini", {"media": {"thumb_side": side}}).media

    def here(data: bytes) -> NDArray[np.uint8]:
        read = media.read(data, limits)
        assert isinstance(read, Photo)
        return read.thumb

    def pillow(data: bytes) -> NDArray[np.uint8]:
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(whole.resize((side, side), Image.Resampling.BILINEAR))

    def torchvision(data: bytes) -> NDArray[np.uint8]:
        whole = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        return resize(whole, [side, side], antialias=True).permute(1, 2, 0).numpy()

    found: dict[str, Way] = {"Pillow, whole": pillow, "roadwork-serve": here, "torchvision.io, whole": torchvision}
    if find_spec("simplejpeg"):
        import simplejpeg

        def turbo(data: bytes) -> NDArray[np.uint8]:
            shrunk = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side)
            return np.asarray(Image.fromarray(shrunk).resize((side, side), Image.Resampling.BILINEAR))

        found["simplejpeg, scaled"] = turbo
    return found


def picture(index: int) -> bytes:
    """Return a JPEG of SIZE."""
    drawn = Image.open(io.BytesIO(draw_scene(SEED + index, "photo").data)).convert("RGB")
    large = np.asarray(drawn.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(index).normal(0, NOISE, (*large.shape[:2], 1))
    out = io.BytesIO()
    Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def measured(pictures: list[bytes], side: int, repeats: int) -> dict[str, Took]:
    """Every way over every picture, in turns."""
    all_ways = ways(side)
    took: dict[str, list[float]] = {name: [] for name in all_ways}
    off: dict[str, list[NDArray[np.int16]]] = {name: [] for name in all_ways}
    for data in pictures:
        whole = next(iter(all_ways.values()))(data).astype(np.int16)
        for name, way in all_ways.items():
            off[name].append(np.abs(way(data).astype(np.int16) - whole))
        for _ in range(repeats):
            for name, way in all_ways.items():
                began = time.process_time()
                way(data)
                took[name].append(1000 * (time.process_time() - began))
    slowest = statistics.median(next(iter(took.values())))
    return {
        name: Took(
            round(statistics.median(each), 2),
            round(min(each), 2),
            round(max(each), 2),
            round(slowest / statistics.median(each), 2),
            round(float(np.mean([part.mean() for part in off[name]])), 2),
            int(max(part.max() for part in off[name])),
        )
        for name, each in took.items()
    }


def main() -> None:
    """Measure, print, write OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.decode", *sys.argv[1:]]))
    pictures = [picture(index) for index in range(args.pictures)]
    sides = {str(side): measured(pictures, side, args.repeats) for side in (224, 512)}
    table = Table("thumb", "way", "ms, median", "least to most", "times faster", "off, mean", "most")
    for side, by_way in sides.items():
        for name, took in by_way.items():
            between = f"{took.least_ms} to {took.most_ms}"
            table.add_row(
                side, name, f"{took.median_ms}", between, f"{took.times_faster}", f"{took.mean_off}", f"{took.most_off}"
            )
    Console().print(table)
    result = {
        "environment": asdict(environment),
        "size": SIZE,
        "quality": QUALITY,
        "bytes": [len(data) for data in pictures],
        "sides": {side: {name: asdict(took) for name, took in by_way.items()} for side, by_way in sides.items()},
    }
    write_json(args.out, result)


if __name__ == "__main__":
    main()
