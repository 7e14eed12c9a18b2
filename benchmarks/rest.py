"""`python -m benchmarks.rest`: what a server without requests costs, in milliseconds of a core a second, by process.

It starts the default profile on a Ray of its own, waits until nothing loads any more, and reads each process's
processor time from /proc at the beginning and at the end. `--label` names the run in the result file, which keeps the
others: so a result from before a change stays beside the one after it.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environment import Environment
from benchmarks.server import ROOT, session, started, status
from benchmarks.soak.samples import role
from benchmarks.tables import RESULTS
from benchmarks.usage import title
from roadwork_serve.atomic_write import write_json

OUT = RESULTS / "rest.json"
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rest", description=__doc__)
    parser.add_argument("--label", default="now", help="name of the run in the result file")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--settle", type=float, default=30, help="seconds between the start and the measurement")
    parser.add_argument("--seconds", type=float, default=60, help="of the measurement")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="environment variables, for a trial")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    environment = dict(each.split("=", 1) for each in given.set)
    with started(ROOT / "build/rest.log", {"profile": given.profile}, environment, settled=True) as server:
        time.sleep(given.settle)
        began, before = time.monotonic(), core_ms(server.pid)
        time.sleep(given.seconds)
        took_s, after = time.monotonic() - began, core_ms(server.pid)
    processes = by_name(before, after, took_s)
    run = {
        "environment": asdict(Environment.here(shlex.join(["python", "-m", "benchmarks.rest", *sys.argv[1:]]))),
        "seconds": round(took_s, 1),
        "processes": [{"name": name, "ms_per_s": round(spent, 1)} for name, spent in processes.most_common()],
        "ms_per_s": round(processes.total(), 1),
    }
    result: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    result["environment"] = run["environment"]
    result["runs"] = result.get("runs", {}) | {given.label: run}
    write_json(given.out, result)
    for each in run["processes"]:
        print(f"{each['ms_per_s']:8.1f}  {each['name']}")
    print(f"{run['ms_per_s']:8.1f}  all")


def core_ms(leader: int) -> dict[int, tuple[str, float]]:
    """Return name and processor time so far, in milliseconds, of each process of a server."""
    found: dict[int, tuple[str, float]] = {}
    for pid in session(leader):
        with suppress(OSError):  # it has ended
            spent = sum(int(each) for each in status(pid)[11:13])  # in user and in system mode
            found[pid] = (role(title(pid)), 1000 * spent / _TICKS)
    return found


def by_name(
    before: Mapping[int, tuple[str, float]], after: Mapping[int, tuple[str, float]], took_s: float
) -> Counter[str]:
    """Return milliseconds of a core a second by name, of the processes that were there at both times."""
    spent = Counter[str]()
    for pid, (name, total) in after.items():
        if pid in before:
            spent[name] += (total - before[pid][1]) / took_s  # type: ignore[assignment]
    return spent


if __name__ == "__main__":
    main()
