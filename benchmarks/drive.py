"""Measure `roadwork drive` on rendered drives with known zones and tracks: `python -m benchmarks.drive`.

One road is driven twice: by day with all zones, and on the next day, at night, when some of them have ended. The drives
are kept in build/drive and rendered once. The recordings are read by the command as a user runs it, against a server
of the profile `mini` or, with --in-process, with the models in the command's own process.

A zone of the map is right if it lies within 50 m of a true one along the road, and each true one is found once at most.
Begin and end of segments are compared with the times at which the works are in sight, places with the middle of the
works. The command is killed after a minute, and run again. Memory is the largest sum over the command and its reading
process, so with --in-process it includes the models.
"""

import argparse
import csv
import datetime as dt
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.environment import Environment
from benchmarks.server import own_server
from benchmarks.usage import memory_mib
from roadwork_serve.atomic_write import replace_file, write_json
from roadwork_serve.drives.geometry import distance_m
from roadwork_serve.drives.smoothing import fit_rates
from roadwork_serve.testbed.scenes.drive import drive_gpx, render_drive
from roadwork_serve.testbed.scenes.drive_plan import DrivePlan, plan_drive

OUT = Path("benchmarks/results/drive.json")
DRIVES = Path("build/drive")
SEED = 9401
FIRST_DAY = dt.datetime(2026, 5, 4, 8, 30, tzinfo=dt.UTC)
ENDED_SHARE = 0.25
NEAR_M = 50.0


@dataclass(frozen=True, slots=True)
class Result:
    """The result file."""

    environment: Environment
    #: Whether the models ran in the command's process.
    in_process: bool
    #: Length of the recordings.
    seconds: float
    zones: int
    #: Of zones, over both drives.
    recall: float
    precision: float
    #: Zones whose state, active or ended, is right, of those found.
    status_right: float
    #: Median intersection over union of segments and the times in sight.
    temporal_iou: float
    #: Median errors in seconds and metres.
    begin_error_s: float
    end_error_s: float
    place_error_m: float
    #: Mean of begin and end errors with their sign: positive is late.
    begin_bias_s: float
    end_bias_s: float
    #: Rates per second that fit the labels of these drives; `SmoothingModel` has those that were used.
    fitted_begin_rate: float
    fitted_end_rate: float
    #: Seconds of recordings for each second, from the start of the command to its end.
    speed: float
    memory_mib: float
    #: Seconds after which the command was killed, once; it was then run again. The time of both counts.
    killed_after_s: float
    #: Frames and clips with more than one score.
    repeated_scores: int


def plans(seconds: float, zones: int) -> list[DrivePlan]:
    """Return the two drives."""
    rng = np.random.default_rng(SEED)
    ended = frozenset(map(int, rng.choice(zones, round(ENDED_SHARE * zones), replace=False)))
    return [
        plan_drive(SEED, seconds, zones),
        plan_drive(SEED, seconds, zones, ended, light="night", pass_seed=1),
    ]


def write_drives(folder: Path, seconds: float, zones: int, scale: float) -> list[DrivePlan]:
    """Render the drives that are not there yet, each with its GPX."""
    found = plans(seconds, zones)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_write_drive, found, range(len(found)), [folder] * len(found), [scale] * len(found)))
    return found


def _write_drive(plan: DrivePlan, number: int, folder: Path, scale: float) -> None:
    start = FIRST_DAY + dt.timedelta(days=number)
    path = folder / f"{start:%Y%m%d_%H%M%S}.mp4"
    if not path.exists():
        with replace_file(path) as draft:
            render_drive(plan, draft, scale=scale, created=start)
    path.with_suffix(".gpx").write_text(drive_gpx(plan, start, number), encoding="utf-8")


def run(folder: Path, out: Path, cascade: Sequence[str], kill_after_s: float) -> tuple[float, float]:
    """Run the command, kill it after some time, and run it again. Return the time in seconds and the memory in MiB."""
    roadwork = Path(sys.executable).with_name("roadwork")
    command = [str(roadwork), "drive", str(folder), "--out", str(out), *cascade]
    began, most = time.monotonic(), 0.0
    for kill_at in (began + kill_after_s, math.inf):
        with subprocess.Popen(command) as process:
            while process.poll() is None:
                most = max(most, _memory(process.pid))
                time.sleep(0.5)
                if time.monotonic() >= kill_at:
                    for each in (*psutil.Process(process.pid).children(recursive=True), process):
                        each.kill()
        if process.returncode == 0:
            break
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"roadwork drive ended with {process.returncode}")
    return time.monotonic() - began, most


def _memory(pid: int) -> float:
    total = 0.0
    try:
        for each in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
            total += memory_mib(each)
    except (OSError, psutil.Error):
        pass
    return total


def matched(rows: Sequence[dict[str, str]], plan: DrivePlan) -> dict[int, int]:
    """Return the number of the true zone of each row of zones.csv that has one, the nearest pairs first."""
    pairs = sorted(
        (_apart_m(row, plan, zone), at, zone) for at, row in enumerate(rows) for zone in range(len(plan.zones))
    )
    found: dict[int, int] = {}
    for metres, at, zone in pairs:
        if metres <= NEAR_M and at not in found and zone not in found.values():
            found[at] = zone
    return found


def _apart_m(row: dict[str, str], plan: DrivePlan, zone: int) -> float:
    """Return the distance of a row from the middle of the works of a zone."""
    middle = (plan.zones[zone].begin_m + plan.zones[zone].end_m) / 2
    return float(distance_m(float(row["latitude"]), float(row["longitude"]), *plan.place_at(middle)))


def sightings(rows: Sequence[dict[str, str]], plan: DrivePlan, name: str) -> Iterator[tuple[float, float, float]]:
    """Yield intersection over union, begin error and end error in seconds of each time at which a zone is in sight."""
    segments = [(float(row["begin_s"]), float(row["end_s"])) for row in rows if row["drive"] == name]
    for begin, end in plan.sights():
        best = max(segments, key=lambda each: min(each[1], end) - max(each[0], begin), default=(0.0, 0.0))
        shared = min(best[1], end) - max(best[0], begin)
        if shared > 0:
            yield shared / (max(best[1], end) - min(best[0], begin)), best[0] - begin, best[1] - end


def repeated(log: Path) -> int:
    """Return how many frames and clips a log of scores has more than once."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    counts = Counter(
        (row["kind"], row["file"], row.get("time_s", 0.0)) for row in rows if row["kind"] in ("frame", "clip")
    )
    return sum(count - 1 for count in counts.values())


def measure(folder: Path, out: Path, found: Sequence[DrivePlan], environment: Environment, took: tuple[float, float],
            in_process: bool, kill_after_s: float) -> Result:  # fmt: skip
    """Return the result of a run."""
    with (out / "zones.csv").open() as zones, (out / "segments.csv").open() as segments:
        rows, segment_rows = list(csv.DictReader(zones)), list(csv.DictReader(segments))
    first, second = found
    pairs = matched(rows, first)
    names = [path.name for path in sorted(folder.glob("*.mp4"))]
    each = [one for plan, name in zip(found, names, strict=True) for one in sightings(segment_rows, plan, name)]
    begins = {zone.begin_m for zone in second.zones}
    right = [(rows[at]["status"] == "active") == (first.zones[zone].begin_m in begins) for at, zone in pairs.items()]
    places = [_apart_m(rows[at], first, zone) for at, zone in pairs.items()]
    fitted = fit_rates([_labels(plan) for plan in found])
    seconds = sum(plan.seconds for plan in found)
    return Result(
        environment=environment,
        in_process=in_process,
        seconds=round(seconds, 1),
        zones=len(first.zones),
        recall=round(len(pairs) / len(first.zones), 4),
        precision=round(len(pairs) / max(1, len(rows)), 4),
        status_right=round(statistics.mean(right), 4) if right else 0.0,
        temporal_iou=_median([iou for iou, _, _ in each]),
        begin_error_s=_median([abs(begin) for _, begin, _ in each]),
        end_error_s=_median([abs(end) for _, _, end in each]),
        place_error_m=_median(places),
        begin_bias_s=_median([begin for _, begin, _ in each]),
        end_bias_s=_median([end for _, _, end in each]),
        fitted_begin_rate=round(fitted.begin_rate, 4),
        fitted_end_rate=round(fitted.end_rate, 4),
        speed=round(seconds / took[0], 2),
        memory_mib=round(took[1], 1),
        killed_after_s=kill_after_s,
        repeated_scores=repeated(out / "scores.jsonl"),
    )


def _labels(plan: DrivePlan) -> tuple[list[float], list[bool]]:
    """Return times each half second, and whether works are in sight."""
    times = [at / 2 for at in range(int(2 * plan.seconds))]
    sights = plan.sights()
    return times, [any(begin <= at <= end for begin, end in sights) for at in times]


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3) if values else 0.0


@contextmanager
def _cascade(in_process: bool) -> Iterator[list[str]]:
    with nullcontext() if in_process else own_server(Path("build/drive/serve.log"), "mini") as url:
        yield ["--profile", "mini"] if url is None else ["--server", url]


def main() -> None:
    """Render, run, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seconds", type=float, default=600.0, help="length of each of the two drives")
    parser.add_argument("--zones", type=int, default=22)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on 1280x720")
    parser.add_argument("--in-process", action="store_true", help="start no server")
    parser.add_argument("--kill-after", type=float, default=60.0, help="seconds until the command is killed, once")
    args = parser.parse_args()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.drive", *sys.argv[1:]]))
    folder = DRIVES / f"{SEED}-{args.seconds:g}-{args.zones}-{args.scale:g}"
    folder.mkdir(parents=True, exist_ok=True)
    found = write_drives(folder, args.seconds, args.zones, args.scale)
    with tempfile.TemporaryDirectory(prefix="drive-") as work, _cascade(args.in_process) as cascade:
        took = run(folder, Path(work) / "map", cascade, args.kill_after)
        result = measure(folder, Path(work) / "map", found, environment, took, args.in_process, args.kill_after)
    write_json(args.out, asdict(result))
    print(json.dumps({name: value for name, value in asdict(result).items() if name != "environment"}, indent=1))


if __name__ == "__main__":
    main()
