"""Facts about the machine, the libraries and the code that a result was made with."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NOT_INSTALLED = "not installed"
_PACKAGES = ("roadwork-serve", "torch", "transformers", "onnxruntime")


def environment() -> dict[str, str]:
    """Return the date, Python, platform, CPU, cores and library versions of this process, as text by name."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        **{package: package_version(package) for package in _PACKAGES},
    }


def package_version(package: str) -> str:
    """Return the installed version of a package, or NOT_INSTALLED."""
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def cpu_model() -> str:
    """Return the model name of the CPU as the kernel reports it, or the machine type where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def code_revision(folder: Path = Path(__file__).parent, exclude: tuple[str, ...] = ()) -> str:
    """Return the commit of the checkout that holds the folder, with "+" when tracked files have changed.

    exclude: paths, relative to the folder, whose changes do not count. Empty outside a checkout.
    """

    def git(*command: str) -> str:
        return subprocess.run(  # noqa: S603 - git alone, no shell
            ["git", "-C", str(folder), *command],  # noqa: S607 - whichever is installed
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":(exclude){e}" for e in exclude))
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""
