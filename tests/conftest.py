"""What Ray must find in the environment when it is first imported, whichever test does so."""

import os

import pytest

os.environ.update(
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # a node of its own on the loopback address
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",  # no token is written to the home of who runs the tests
    RAY_worker_niceness="0",  # by default replicas give way to whatever else runs on the machine
    RAY_SERVE_LOG_TO_STDERR="0",
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew


def pytest_configure(config: pytest.Config) -> None:
    """Ray forgets a helper process that is slow to start, and Python tells of it in whichever test comes then."""
    config.addinivalue_line("filterwarnings", "ignore:subprocess .* is still running:ResourceWarning")
