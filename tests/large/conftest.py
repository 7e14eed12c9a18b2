"""Tests that take minutes: `make test-large`."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests unless they are requested."""
    for item in items:
        if item.path.is_relative_to(HERE) and not os.environ.get("ROADWORK_LARGE"):
            item.add_marker(pytest.mark.skip(reason="it takes minutes; `make test-large` runs this"))
