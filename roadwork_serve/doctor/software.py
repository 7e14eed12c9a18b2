"""Python, the operating system, and the installed packages."""

import platform
import sys
from collections.abc import Mapping, Sequence

from roadwork_serve.doctor.finding import Finding
from roadwork_serve.profiles.backend_packages import missing_packages
from roadwork_serve.provenance import NOT_INSTALLED, package_version

OLDEST, NEWEST = (3, 11), (3, 13)  # as requires-python in pyproject.toml
_PLATFORMS = (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
_BASE = ("roadwork-serve", "ray", "onnxruntime", "rapidocr", "fastapi")
_EXTRAS: Mapping[str, Sequence[str]] = {
    "models": ("torch", "transformers"),
    "gpu": ("vllm", "nvidia-ml-py"),
    "tensorrt": ("tensorrt",),
    "miner": ("bittensor",),
    "train": ("scikit-learn", "lightning"),
}


def python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    """Return whether this Python is one of those that are supported."""
    shown = ".".join(map(str, version))
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return Finding("Python", "ok", f"{shown} ({sys.executable})")
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST, NEWEST))
    return Finding("Python", "problem", f"{shown} is not supported: install one from {oldest} to {newest}")


def operating_system(system: str = platform.system(), machine: str = platform.machine()) -> Finding:
    """Return whether packages exist for this operating system and processor."""
    if (system, machine) in _PLATFORMS:
        return Finding("System", "ok", platform.platform())
    return Finding(
        "System",
        "problem",
        f"{system} on {machine} is not supported: use Linux on x86-64 or aarch64, macOS on arm64, or a container",
    )


def packages() -> list[Finding]:
    """Return the versions of the packages that matter, by extra, and what the backends lack."""
    findings = [Finding("Packages", "ok", ", ".join(f"{name} {package_version(name)}" for name in _BASE))]
    for extra, names in _EXTRAS.items():
        there = [f"{name} {found}" for name in names if (found := package_version(name)) != NOT_INSTALLED]
        findings.append(Finding(f"Extra {extra}", "ok", ", ".join(there) or NOT_INSTALLED))
    if missing := missing_packages("transformers"):
        findings.append(Finding("Models", "note", f"{missing}. Stages of other backends run without"))
    return findings
