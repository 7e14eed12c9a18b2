"""Imports Ray with the environment it needs, and without its own warnings, which would be errors."""

import asyncio
import os
import shutil
import tempfile
import warnings

import pytest

from roadwork_serve.ray_environment import RAY

os.environ.update(RAY, RAY_SERVE_LOG_TO_STDERR="0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew
with warnings.catch_warnings(action="ignore"):  # of pydantic's
    import ray.serve  # noqa: F401


def pytest_configure(config: pytest.Config) -> None:
    """Keep data out of the user's home, and suppress two warnings that would hit arbitrary tests.

    Ray forgets a helper process that is slow to start, and pytest-asyncio an event loop that Python creates implicitly.
    """
    asyncio.set_event_loop(None)
    os.environ["ROADWORK_STATE"] = folder = tempfile.mkdtemp(prefix="roadwork-state-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.addinivalue_line("filterwarnings", "ignore:subprocess .* is still running:ResourceWarning")
