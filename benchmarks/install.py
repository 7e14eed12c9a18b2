"""Measure what an installation takes: `python3 -I benchmarks/install.py`, with a Python that has nothing installed.

For each lock, an environment is made in a temporary folder as the Makefile makes it, without a cache. Bytes are those
that all network interfaces but the loopback received meanwhile, so nothing else should download. Linux only.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks/results/install.json"
LOCKS = {"serving": "ops/base/requirements.txt", "all": "constraints.txt"}


def received_mb() -> float:
    """Return what the interfaces have received, in MB."""
    rows = (line.split(":") for line in Path("/proc/net/dev").read_text().splitlines()[2:])
    return sum(int(counts.split()[0]) for name, counts in rows if name.strip() != "lo") / 1e6


def disk_mb(folder: Path) -> float:
    """Return the size on disk of all files of a folder, in MB."""
    return sum(each.lstat().st_blocks * 512 for each in folder.rglob("*")) / 1e6


def install(lock: Path) -> dict[str, int]:
    """Install a lock into a new environment and return what it took."""
    with tempfile.TemporaryDirectory(prefix="rw-install-") as name:
        folder = Path(name)
        python, bootstrap = folder / "venv/bin/python", ROOT / "ops/bootstrap"
        began, before = time.monotonic(), received_mb()
        environment = os.environ | {"UV_NO_CACHE": "1", "PIP_NO_CACHE_DIR": "1"}

        def run(*command: str | Path) -> None:
            subprocess.run(command, check=True, env=environment, cwd=ROOT)

        run(sys.executable, "-m", "venv", folder / "venv")
        run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", bootstrap / "uv.txt")
        uv = (folder / "venv/bin/uv", "pip", "install", "--quiet", "--no-deps")
        build = ("--build-constraints", bootstrap / "requirements.txt", "--python", python)
        run(*uv, *build, "--require-hashes", "--requirement", lock)
        run(*uv, *build, "--editable", ".")
        took_s = time.monotonic() - began
        return {
            "seconds": round(took_s),
            "downloaded_mb": round(received_mb() - before),
            "disk_mb": round(disk_mb(folder / "venv")),
        }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", choices=LOCKS, action="append", help="by default base and serving")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    release = platform.freedesktop_os_release()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python3", "-I", "benchmarks/install.py", *sys.argv[1:]]),
        "system": release["PRETTY_NAME"],
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "locks": {name: install(ROOT / LOCKS[name]) for name in options.lock or ("serving",)},
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
