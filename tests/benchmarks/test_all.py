"""Tests of the checks on benchmark results."""

from typing import Any

import pytest

from benchmarks.all import ALL, Measurement, check_all_ran, check_well_formed
from benchmarks.server import ROOT

ONE = Measurement("one", 1, (), ("rows",))
ENVIRONMENT = {"command": "python -m one", "cpu": "a", "cores": 2, "date": "2026-01-01"}


def test_a_complete_result_is_accepted() -> None:
    check_well_formed({"environment": ENVIRONMENT, "rows": [{"per_s": 1.5, "sustained": None, "in_time": True}]}, ONE)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"rows": [1]}, "no environment"),
        ({"environment": ENVIRONMENT, "rows": []}, "no rows"),
        ({"environment": {"cpu": "a"}, "rows": [1]}, "where it ran"),
    ],
)
def test_an_incomplete_result_is_rejected(result: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_well_formed(result, ONE)


def test_a_failed_server_is_reported() -> None:
    check_all_ran({"runs": [{"failed": []}]}, ONE)
    with pytest.raises(ValueError, match="not all of one ran"):
        check_all_ran({"runs": [{"failed": []}, {"failed": [{"server": "one"}]}]}, ONE)


def test_every_measurement_is_a_module_that_can_be_run() -> None:
    for benchmark in ALL:
        assert any(
            (ROOT / "benchmarks" / path).is_file() for path in (f"{benchmark.name}.py", f"{benchmark.name}/__main__.py")
        )
