"""Imports Ray with the environment it needs, and without its own warnings, which would be errors."""

import asyncio
import os
import tempfile
import warnings

import pytest

from roadwork_serve.ray_environment import ray_environment

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the folder of the process that started them
    _STATE = tempfile.TemporaryDirectory(prefix="rw-")
    os.environ["ROADWORK_STATE"] = os.environ["RAY_TMPDIR"] = _STATE.name
os.environ.update(ray_environment(), RAY_SERVE_LOG_TO_STDERR="0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew
with warnings.catch_warnings(action="ignore"):  # of pydantic's
    import ray.serve  # noqa: F401


def pytest_configure(config: pytest.Config) -> None:
    """Suppress two warnings that would hit arbitrary tests.

    Ray forgets a helper process that is slow to start, and pytest-asyncio an event loop that Python creates implicitly.
    """
    asyncio.set_event_loop(None)
    config.addinivalue_line("filterwarnings", "ignore:subprocess .* is still running:ResourceWarning")
