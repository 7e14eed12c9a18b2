"""What Ray must find in the environment when it is first imported, whichever test does so."""

import os

import pytest

from roadwork_serve.environment import RAY

os.environ.update(RAY, RAY_SERVE_LOG_TO_STDERR="0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew


def pytest_configure(config: pytest.Config) -> None:
    """Ray forgets a helper process that is slow to start, and Python tells of it in whichever test comes then."""
    config.addinivalue_line("filterwarnings", "ignore:subprocess .* is still running:ResourceWarning")
