"""Compare decoders from a 12-megapixel JPEG to the input of stage 1: `python -m benchmarks.decode`.

The images are rendered scenes, enlarged to 4000x3000 with sensor noise, quality 90, about 4 MB each. Every decoder
returns a uint8 array [side, side, 3], resized to a square with antialiasing, on one thread. The decoders alternate on
every image; times are processor times. The difference from Pillow's full decode is reported as well. simplejpeg is a
binding of libjpeg-turbo; it is skipped where it is not installed (`pip install simplejpeg`).
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
Decoder = Callable[[bytes], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Timing:
    """The figures of a decoder over all images and repeats."""

    median_ms: float
    min_ms: float
    max_ms: float
    #: Relative to the median of Pillow's full decode.
    speedup: float
    #: Mean difference from Pillow's full decode, in levels of 255.
    mean_error: float
    #: Largest such difference.
    max_error: int


def decoders(side: int) -> Mapping[str, Decoder]:
    """Return the decoders by name; the first is the baseline."""
    limits = load_profile("mini", {"media": {"thumb_side": side}}).media

    def roadwork(data: bytes) -> NDArray[np.uint8]:
        read = media.read(data, limits)
        assert isinstance(read, Photo)
        return read.thumb

    def pillow(data: bytes) -> NDArray[np.uint8]:
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(whole.resize((side, side), Image.Resampling.BILINEAR))

    def torchvision(data: bytes) -> NDArray[np.uint8]:
        whole = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        return resize(whole, [side, side], antialias=True).permute(1, 2, 0).numpy()

    found: dict[str, Decoder] = {
        "Pillow, full decode": pillow,
        "roadwork-serve": roadwork,
        "torchvision.io, full decode": torchvision,
    }
    if find_spec("simplejpeg"):
        import simplejpeg

        def turbo(data: bytes) -> NDArray[np.uint8]:
            shrunk = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side)
            return np.asarray(Image.fromarray(shrunk).resize((side, side), Image.Resampling.BILINEAR))

        found["simplejpeg, scaled decode"] = turbo
    return found


def jpeg(index: int) -> bytes:
    """Return a rendered JPEG of SIZE."""
    scene = Image.open(io.BytesIO(draw_scene(SEED + index, "photo").data)).convert("RGB")
    large = np.asarray(scene.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(index).normal(0, NOISE, (*large.shape[:2], 1))
    out = io.BytesIO()
    Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def measure(images: list[bytes], side: int, repeats: int) -> dict[str, Timing]:
    """Return the figures of every decoder over all images, in alternation."""
    all_decoders = decoders(side)
    times: dict[str, list[float]] = {name: [] for name in all_decoders}
    errors: dict[str, list[NDArray[np.int16]]] = {name: [] for name in all_decoders}
    for data in images:
        whole = next(iter(all_decoders.values()))(data).astype(np.int16)
        for name, decoder in all_decoders.items():
            errors[name].append(np.abs(decoder(data).astype(np.int16) - whole))
        for _ in range(repeats):
            for name, decoder in all_decoders.items():
                began = time.process_time()
                decoder(data)
                times[name].append(1000 * (time.process_time() - began))
    baseline = statistics.median(next(iter(times.values())))
    return {
        name: Timing(
            round(statistics.median(each), 2),
            round(min(each), 2),
            round(max(each), 2),
            round(baseline / statistics.median(each), 2),
            round(float(np.mean([part.mean() for part in errors[name]])), 2),
            int(max(part.max() for part in errors[name])),
        )
        for name, each in times.items()
    }


def main() -> None:
    """Measure, print the results, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="number of images")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each decoder on each image")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.decode", *sys.argv[1:]]))
    images = [jpeg(index) for index in range(args.images)]
    sides = {str(side): measure(images, side, args.repeats) for side in (224, 512)}
    table = Table("thumbnail", "decoder", "median, ms", "minimum to maximum", "speedup", "mean error", "largest error")
    for side, by_decoder in sides.items():
        for name, timing in by_decoder.items():
            spread = f"{timing.min_ms} to {timing.max_ms}"
            table.add_row(
                side,
                name,
                f"{timing.median_ms}",
                spread,
                f"{timing.speedup}",
                f"{timing.mean_error}",
                f"{timing.max_error}",
            )
    Console().print(table)
    result = {
        "environment": asdict(environment),
        "size": SIZE,
        "quality": QUALITY,
        "bytes": [len(data) for data in images],
        "sides": {
            side: {name: asdict(timing) for name, timing in by_decoder.items()} for side, by_decoder in sides.items()
        },
    }
    write_json(args.out, result)


if __name__ == "__main__":
    main()
