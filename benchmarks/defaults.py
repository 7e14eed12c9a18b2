"""`python -m benchmarks.defaults`: what the profiles without a GPU cost: a core's time a photo, start and memory.

The core time of stage 1 and of the closer look is that of this process over the photos of the console, one at a time
with one thread, decoding included. Start and memory are those of a server with a Ray of its own, for each profile in
turn: the time until it is ready; the proportional set size of its processes ten seconds after it has classified the
photos and its dashboard is up; and the time until the fast VLM is up again after a kill.
"""

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from benchmarks.chaos.processes import kill
from benchmarks.environment import Environment
from benchmarks.server import ROOT, Server, session, started, wait_for_dashboard
from benchmarks.tables import RESULTS
from benchmarks.usage import memory_mib
from roadwork_serve import media
from roadwork_serve.api.deployment_names import deployment_of
from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.prediction import BlockingStage, Item
from roadwork_serve.engines.registry import open_feature_extractor
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.stages.backbone import Backbone
from roadwork_serve.stages.closeup import Closeup

OUT = RESULTS / "defaults.json"
SAMPLES = ROOT / "roadwork_serve/console/samples"
PROFILES = ("mini", "cpu")
_RECOVERY_LIMIT_S = 120
_SETTLE_S = 10  # half a minute after its last call a stage would be probed less often


@dataclass(frozen=True, slots=True)
class StageTime:
    """Processor time of a stage."""

    stage: str
    photos: int
    #: Median and greatest over the photos, each the median of its repeats, in milliseconds of a core.
    median_ms: float
    most_ms: float


@dataclass(frozen=True, slots=True)
class Start:
    """A server from its start to its first verdicts."""

    profile: str
    #: From the command to /readyz.
    ready_s: float
    #: Proportional set size of all processes of the server and its Ray, in MB.
    memory_mb: float
    processes: int
    #: From a SIGKILL of the fast VLM's process until the stage is up again.
    back_s: float


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defaults", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of every photo")
    parser.add_argument("--starts", type=int, default=1, help="servers of each profile, in turns; 0 starts none")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))]
    stages = stage_times(photos, given.repeats)
    starts = [start(profile, photos) for _ in range(given.starts) for profile in PROFILES]
    for each in (*stages, *starts):
        print(each)
    result = {
        "environment": asdict(Environment.here(shlex.join(["python", "-m", "benchmarks.defaults", *sys.argv[1:]]))),
        "stages": [asdict(each) for each in stages],
        "starts": [asdict(each) for each in starts],
    }
    write_json(given.out, result)


def stage_times(photos: list[bytes], repeats: int) -> list[StageTime]:
    """Return the processor time of both stages of the backbone of profile `cpu`."""
    profile = load_profile("cpu")
    engine = profile.engine_of("backbone")
    opened = open_feature_extractor(engine)
    limits = profile.media
    found: list[StageTime] = []
    stages: tuple[BlockingStage, ...] = (
        Backbone(profile.stages["backbone"], engine, opened), Closeup(profile.stages["closeup"], engine, opened)
    )  # fmt: skip
    for stage in stages:
        stage.warm()
        medians = [statistics.median(_core_ms(stage, data, limits) for _ in range(repeats)) for data in photos]
        found.append(StageTime(stage.name, len(photos), statistics.median(medians), max(medians)))
    return found


def _core_ms(stage: BlockingStage, data: bytes, limits: MediaLimits) -> float:
    began = time.process_time()
    item = Item.of(media.read(data, limits), "one", 1e9)
    if stage.sees == "images":
        began = time.process_time()  # the thumbnail was paid for by stage 1
        item = replace(item, images=(media.page(data, limits),))
    stage.predict([item])
    return 1000 * (time.process_time() - began)


def start(profile: str, photos: list[bytes]) -> Start:
    """Start a server, classify the photos, and stop it."""
    log, began = ROOT / "build/defaults.log", time.monotonic()
    with started(log, {"profile": profile}) as server:
        ready_s = time.monotonic() - began
        for data in photos:
            httpx.post(f"{server.url}/v1/classify", files={"file": data}, timeout=60).raise_for_status()
        wait_for_dashboard(log)
        time.sleep(_SETTLE_S)
        sizes = [_memory_mb(process) for process in session(server.pid)]
        back_s = _recovery_s(server, profile)
    return Start(profile, ready_s, sum(sizes), len(sizes), back_s)


def _recovery_s(server: Server, profile: str) -> float:
    """Kill the process of the fast VLM and return the seconds until a new one is up. Raises TimeoutError."""
    loaded = load_profile(profile)
    (engines,) = (names for names in loaded.processes() if loaded.stages["vlm"].engine in names)
    process = deployment_of({name: spec for name, spec in loaded.stages.items() if spec.engine in engines})
    _, began = kill(server, process), time.monotonic()
    noticed = False  # the stage counts as up until a probe has failed
    while time.monotonic() < began + _RECOVERY_LIMIT_S:
        time.sleep(0.1)
        up = "vlm" in httpx.get(f"{server.url}/readyz", timeout=10).json().get("up", ())
        if up and noticed:
            return time.monotonic() - began
        noticed = noticed or not up
    raise TimeoutError(f"the fast VLM was not up again {_RECOVERY_LIMIT_S:g} s after a kill")


def _memory_mb(pid: int) -> float:
    try:
        return memory_mib(pid) * 2**20 / 1e6
    except OSError:
        return 0.0


if __name__ == "__main__":
    main()
