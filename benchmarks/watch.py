"""Measure `roadwork watch` on a stream and on a folder that are disturbed: `python -m benchmarks.watch`.

A rendered street shows road work for 25 to 40 s, then none for as long, and so on. One command watches it as MPEG-TS
over HTTP, another as photos in a folder, both against one server of the profile `mini`. The stream is cut, the folder
goes away for a few seconds, and once each command is killed and started again. Each time with road work must give one
event with a beginning and an end. Delays are from the change of the picture to the event, smoothing included, without
those of changes during a disturbance or within 8 s after one.
"""

import argparse
import json
import os
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.environment import Environment
from benchmarks.server import own_server
from benchmarks.usage import memory_mib
from roadwork_serve.atomic_write import write_json
from roadwork_serve.schema import MediaKind
from roadwork_serve.streams.events import Event
from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_seed
from tests.streams.live import HttpCamera

OUT = Path("benchmarks/results/watch.json")
SEED = 9501
SIZE = (640, 360)
SCENES = 12  # of each kind
SCENE_S = 3.0
PERIOD_S = (25.0, 40.0)
PHOTO_EVERY_S = 0.5
DISTURBED_S = 8.0
AWAY_S = 4.0
MEASURE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Watched:
    """The result of one command."""

    #: Times with road work, and of these how many gave one event with both ends.
    times: int
    found: int
    #: Events beside these.
    repeated: int
    #: Seconds from a change of the picture to its event.
    delay_median_s: float
    delay_most_s: float
    #: Of the run after the kill: pictures, and seconds from a picture's arrival to its verdict.
    pictures: int
    age_mean_s: float
    age_most_s: float
    #: Largest memory of the command and its process in the middle third and in the last one.
    memory_middle_mib: float
    memory_end_mib: float


def periods(seconds: float, seed: int = SEED) -> list[tuple[float, float]]:
    """Return begin and end of the times with road work, in seconds from the start."""
    rng, at_s, found = random.Random(seed), 15.0, list[tuple[float, float]]()
    while at_s + PERIOD_S[1] + 15 < seconds:
        end_s = at_s + rng.uniform(*PERIOD_S)
        found.append((at_s, end_s))
        at_s = end_s + rng.uniform(*PERIOD_S)
    return found


def judge(
    truth: Sequence[tuple[float, float]], events: Sequence[tuple[float, Event]], disturbed: Sequence[float]
) -> tuple[int, int, list[float]]:
    """Return how many times were found, how many events are beside them, and the delays.

    Args:
        truth: Times with road work.
        events: Events without `ongoing`, each with when it came, by the same clock.
        disturbed: Times of disturbances.
    """
    found, used, delays = 0, 0, list[float]()
    for begin_s, end_s in truth:
        near = [(at_s, each) for at_s, each in events if begin_s <= at_s < end_s + PERIOD_S[0]]
        began = [(at_s, each) for at_s, each in near if each.event == "began" and at_s < end_s]
        ended = [(at_s, each) for at_s, each in near if began and (each.event, each.id) == ("ended", began[0][1].id)]
        used += len(began[:1]) + len(ended[:1])
        found += bool(began and ended)
        for change_s, came in ((begin_s, began), (end_s, ended)):
            calm = not any(each - 1 <= change_s <= each + DISTURBED_S for each in disturbed)
            delays += [came[0][0] - change_s] if came and calm else []
    return found, len(events) - used, delays


class Street:
    """The pictures that the cameras show."""

    def __init__(self, truth: Sequence[tuple[float, float]]) -> None:
        wanted: list[tuple[int, MediaKind]] = [(scene_seed(SEED, at), "photo") for at in range(8 * SCENES)]
        self._pictures: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for sample in draw_scenes(wanted, drawing_workers()):
            kind = self._pictures[bool(sample.metadata.label)]
            if len(kind) < SCENES:
                kind.append(np.asarray(Image.open(BytesIO(sample.data)).convert("RGB").resize(SIZE)))
        self.truth, self.began_s = truth, time.time()

    def __call__(self, at_s: float) -> np.ndarray:
        at_s -= self.began_s
        kind = self._pictures[any(begin <= at_s < end for begin, end in self.truth)]
        return kind[int(at_s / SCENE_S) % len(kind)]


class Command:
    """A `roadwork watch` that may be killed and started again."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        roadwork = Path(sys.executable).with_name("roadwork")
        self._command, self._log = [str(roadwork), "watch", *arguments], log
        #: Time and memory.
        self.memory: list[tuple[float, float]] = []
        #: Events, with when they were printed.
        self.printed: list[tuple[float, Event]] = []
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Note when each event is printed."""
        for line in process.stdout or ():
            self.printed.append((time.time(), Event.model_validate_json(line)))

    def kill(self) -> None:
        """Kill it and its processes, and start it again."""
        for each in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
            each.kill()
        self.process.wait()
        self.process = self._start()

    def measure(self, at_s: float) -> None:
        with suppress(OSError, psutil.Error):
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.memory.append((at_s, sum(map(memory_mib, (self.process.pid, *(each.pid for each in children))))))

    def stop(self) -> str:
        """End it as Ctrl-C does, and return its last line."""
        self.process.send_signal(signal.SIGINT)
        if self.process.wait(30):
            raise RuntimeError(f"roadwork watch ended with {self.process.returncode}: {self._log.read_text()}")
        return self._log.read_text().strip().splitlines()[-1]

    def most_mib(self, begin_s: float, end_s: float) -> float:
        return round(max((mib for at_s, mib in self.memory if begin_s <= at_s < end_s), default=0.0), 1)


def fill(folder: Path, street: Street, stopped: threading.Event) -> None:
    """Put a photo into a folder twice a second, while it is there."""
    number = 0
    while not stopped.wait(PHOTO_EVERY_S):
        number += 1
        with suppress(OSError):
            draft = folder / f".{number}.jpg"
            Image.fromarray(street(time.time())).save(draft, "JPEG")
            os.rename(draft, folder / f"{number}.jpg")
            (folder / f"{number - 60}.jpg").unlink(missing_ok=True)


def changes(command: Command, log: Path, began_s: float) -> list[tuple[float, Event]]:
    """Return the events without `ongoing`, by seconds from the start. Raise ValueError if the log has others."""
    logged = [Event.model_validate_json(line) for line in log.read_text().splitlines()]
    if logged != [event for _, event in command.printed]:
        raise ValueError(f"{log} has other events than were printed")
    return [(at_s - began_s, event) for at_s, event in command.printed if event.event != "ongoing"]


def numbers(line: str) -> tuple[int, float, float]:
    """Return the numbers in the last line of the command: pictures, mean and largest age in seconds."""
    found = re.fullmatch(
        r"(\d+) pictures, .* verdicts ([\d.]+) s after their picture on average, ([\d.]+) s at most", line
    )
    if found is None:
        raise ValueError(f"unexpected: {line}")
    return int(found[1]), float(found[2]), float(found[3])


def watch(seconds: float, work: Path, server: str) -> dict[str, Watched]:
    """Run both commands over the disturbances."""
    street = Street(periods(seconds))
    folder, away = work / "camera", work / "away"
    folder.mkdir()
    rng, stopped = random.Random(SEED), threading.Event()
    cuts = sorted(rng.uniform(0.1, 0.95) * seconds for _ in range(max(2, round(seconds / 150))))
    disturbed = [*cuts, kill_s := seconds / 5]
    logs = {"stream": work / "stream.jsonl", "folder": work / "folder.jsonl"}
    with HttpCamera(street) as camera:
        sources = {"stream": camera.url, "folder": str(folder)}
        commands = {
            name: Command([sources[name], "--out", str(logs[name]), "--server", server], work / f"{name}.log")
            for name in logs
        }
        street.began_s = time.time()
        filling = threading.Thread(target=fill, args=(folder, street, stopped))
        filling.start()
        due = sorted([(at_s, "cut") for at_s in cuts] + [(kill_s, "kill")])
        while (at_s := time.time() - street.began_s) < seconds:
            if due and at_s >= due[0][0]:
                if due.pop(0)[1] == "kill":
                    for each in commands.values():
                        each.kill()
                else:
                    camera.cut()
                    folder.rename(away)
                    time.sleep(AWAY_S)
                    away.rename(folder)
            for each in commands.values():
                each.measure(at_s)
            time.sleep(min(MEASURE_EVERY_S, max(0.1, due[0][0] - at_s)) if due else MEASURE_EVERY_S)
        stopped.set()
        filling.join()
        lines = {name: each.stop() for name, each in commands.items()}
    results = {}
    for name, command in commands.items():
        found, repeated, delays = judge(street.truth, changes(command, logs[name], street.began_s), disturbed)
        results[name] = Watched(
            len(street.truth), found, repeated, round(statistics.median(delays), 2), round(max(delays), 2),
            *numbers(lines[name]), command.most_mib(seconds / 3, seconds * 2 / 3),
            command.most_mib(seconds * 2 / 3, seconds),
        )  # fmt: skip
    return results


def main() -> None:
    """Run, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--minutes", type=float, default=15.0)
    args = parser.parse_args()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.watch", *sys.argv[1:]]))
    with tempfile.TemporaryDirectory(prefix="watch-") as work, own_server(Path("build/watch.log"), "mini") as url:
        results = watch(60 * args.minutes, Path(work), url)
    found = {name: asdict(each) for name, each in results.items()}
    write_json(args.out, {"environment": asdict(environment), "minutes": args.minutes} | found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
