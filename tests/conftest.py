"""Ray is imported here, with what it must find in the environment, and without its own warnings, which are errors."""

import asyncio
import os
import warnings

import pytest

from roadwork_serve.ray_environment import RAY

os.environ.update(RAY, RAY_SERVE_LOG_TO_STDERR="0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew
with warnings.catch_warnings(action="ignore"):  # of pydantic's
    import ray.serve  # noqa: F401


def pytest_configure(config: pytest.Config) -> None:
    """Two things that Python would tell of in whichever test comes then: Ray forgets a helper process that is slow to
    start, and pytest-asyncio an event loop that Python makes when it is asked for one before there was any.
    """
    asyncio.set_event_loop(None)
    config.addinivalue_line("filterwarnings", "ignore:subprocess .* is still running:ResourceWarning")
