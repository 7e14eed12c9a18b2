"""What takes minutes: `make test-large`."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is here unless it is asked for."""
    for item in items:
        if item.path.is_relative_to(HERE) and not os.environ.get("ROADWORK_LARGE"):
            item.add_marker(pytest.mark.skip(reason="it takes minutes; `make test-large` runs this"))
