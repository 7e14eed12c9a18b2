"""Where a benchmark ran, for its results."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from roadwork_serve.provenance import code_revision, cpu_model

ROOT = Path(__file__).parents[1]
_TOLD = ("transformers", "onnxruntime", "rapidocr", "numpy", "pillow", "fastapi", "uvicorn")


@dataclass(frozen=True, slots=True)
class Environment:
    """date: in UTC, when the run began. cores: this process may use. commit: with a plus where files had changed since;
    empty outside of a checkout. packages: versions of what else a figure may depend on.
    """

    date: str
    command: str
    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    ray: str
    torch: str
    commit: str
    packages: dict[str, str]

    @classmethod
    def here(cls, command: str) -> "Environment":
        """This machine, now."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            cpu=cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(memory / 2**30, 1),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            ray=version("ray"),
            torch=version("torch"),
            commit=code_revision(ROOT, exclude=("benchmarks/results",)),
            packages={name: version(name) for name in _TOLD},
        )
