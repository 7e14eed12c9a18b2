"""Decoding of ordinary photos while the most expensive files arrive: `python -m benchmarks.attacks`.

Without Ray and models: a `DecodePool` of two processes gets two 12-megapixel JPEGs per second, first alone, then
beside eight of the worst files that the limits accept. It prints the times of the JPEGs in both cases, and the most
memory that the decoding processes held.
"""

import asyncio
import json
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from roadwork_serve.errors import MediaError
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.profiles.profile import MediaLimits

SECONDS, PER_SECOND, ATTACKS = 40, 2, 8
_SIDE = 7_000  # 49 megapixels
# A lossless WebP of one colour, 8165 x 6123.
_WEBP = bytes.fromhex("524946461a000000574542505650384c0d0000002fe49ffa15071011118888fe0700")


def worst_files() -> list[bytes]:
    """Return expensive files that are within the limits, of a few hundred kilobytes at most."""
    jpeg = BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), "grey").save(jpeg, "JPEG", progressive=True)
    flat = jpeg.getvalue()
    last = flat.rindex(b"\xff\xda")
    return [_WEBP, _png(_SIDE, _SIDE), flat[:-2] + 2 * flat[last:-2] + flat[-2:], _png(50_000, 1_000)]


def _png(width: int, height: int) -> bytes:
    """Return an RGBA image whose rows all need the filter that is slowest to undo."""
    packed = zlib.compress((b"\4" + bytes(4 * width)) * height, 9)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def ordinary_photo() -> bytes:
    """Return a 12-megapixel JPEG."""
    small = np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(small).resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


async def measure(pool: DecodePool, attacks: Sequence[bytes], seconds: float) -> tuple[list[float], int]:
    """Return the times of the ordinary photos in seconds, and the most memory of the processes in MiB."""
    photo, limits, most_mib = ordinary_photo(), MediaLimits(), 0
    times: list[float] = []

    async def ordinary() -> None:
        began = time.monotonic()
        await pool.read(photo, limits)
        times.append(time.monotonic() - began)

    async def attack(at: int) -> None:
        await asyncio.sleep(at * seconds / max(1, len(attacks)) / 2)  # faster than they are decoded
        try:
            await pool.read(attacks[at], limits)
        except MediaError as error:
            print(f"refused: {error}", file=sys.stderr)

    tasks = [asyncio.create_task(attack(at)) for at in range(len(attacks))]
    for _ in range(int(seconds * PER_SECOND)):
        tasks.append(asyncio.create_task(ordinary()))
        for _ in range(5):
            await asyncio.sleep(1 / PER_SECOND / 5)
            most_mib = max(most_mib, sum(_memory_mib(pid) for pid in pool.pids))
    await asyncio.gather(*tasks)
    return times, most_mib


def _memory_mib(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 // 2**20
    except OSError:  # it is being replaced
        return 0


async def run(seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Measure both cases."""
    files = worst_files()
    found: dict[str, dict[str, float]] = {}
    for name, attacks in (("alone", []), ("attacked", [files[at % len(files)] for at in range(ATTACKS)])):
        pool = DecodePool(2)
        try:
            await pool.ready()
            times, most_mib = await measure(pool, attacks, seconds)
        finally:
            await pool.aclose()
        found[name] = {
            "photos": len(times),
            "median_ms": round(1000 * statistics.median(times), 1),
            "p95_ms": round(1000 * sorted(times)[int(0.95 * len(times))], 1),
            "max_ms": round(1000 * max(times), 1),
            "memory_mib": most_mib,
        }
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run()), indent=2))
