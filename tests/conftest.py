"""Imports Ray with the environment it needs, and without its own warnings, which would be errors."""

import asyncio
import gc
import os
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from roadwork_serve.haproxy import haproxy_environment
from roadwork_serve.ray_environment import ray_environment

gc.disable()  # until all tests are imported: nothing of it is garbage

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the folder of the process that started them
    _STATE = tempfile.TemporaryDirectory(prefix="rw-")
    os.environ["ROADWORK_STATE"] = os.environ["RAY_TMPDIR"] = _STATE.name
_PROXY = tempfile.TemporaryDirectory(prefix="rw-")  # each worker has a Ray of its own
os.environ.update(
    ray_environment() | haproxy_environment(Path(_PROXY.name), Path(__file__).parents[1] / "ops/haproxy/haproxy.sh"),
    RAY_SERVE_LOG_TO_STDERR="0",
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew
for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "VENV", "PYTHON"):  # `make VENV=... test`: not for makes of tests
    os.environ.pop(name, None)
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow])  # others may use the machine
settings.load_profile("busy")
with warnings.catch_warnings(action="ignore"):  # of pydantic's
    import ray.serve  # noqa: F401


def pytest_configure(config: pytest.Config) -> None:
    """Suppress two warnings that would hit arbitrary tests.

    Ray forgets a helper process that is slow to start, and pytest-asyncio an event loop that Python creates implicitly.
    """
    asyncio.set_event_loop(None)
    config.addinivalue_line("filterwarnings", "ignore:subprocess .* is still running:ResourceWarning")


def pytest_collection_finish() -> None:
    """Exempt what the imports left, a million objects, from garbage collection. Each full one would go through them."""
    gc.freeze()
    gc.enable()
