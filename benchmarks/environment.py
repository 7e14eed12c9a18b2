"""The environment of a benchmark, recorded in its results."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from roadwork_serve.provenance import code_revision, cpu_model

ROOT = Path(__file__).parents[1]
_PACKAGES = ("transformers", "onnxruntime", "rapidocr", "numpy", "pillow", "fastapi", "uvicorn")


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine, the libraries and the code of a measurement."""

    #: Start of the run, UTC.
    date: str
    command: str
    cpu: str
    #: Cores that this process may use.
    cores: int
    memory_gib: float
    system: str
    python: str
    ray: str
    #: Empty in the environment of `make serve`, which has none.
    torch: str
    #: Git commit, with a plus if files were changed; empty outside a checkout.
    commit: str
    #: Versions of other packages that the result may depend on.
    packages: dict[str, str]

    @classmethod
    def here(cls, command: str) -> "Environment":
        """Return the current environment."""
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
            torch=_version("torch"),
            commit=code_revision(ROOT, exclude=("benchmarks/results",)),
            packages={name: found for name in _PACKAGES if (found := _version(name))},
        )


def _version(package: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
