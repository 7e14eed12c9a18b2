"""A measurement counts when its result is well formed."""

from typing import Any

import pytest

from benchmarks.all import ALL, Measurement, all_ran, well_formed
from benchmarks.server import ROOT

ONE = Measurement("one", 1, (), ("rows",))
ENVIRONMENT = {"command": "python -m one", "cpu": "a", "cores": 2, "date": "2026-01-01"}


def test_a_result_with_all_its_parts_is_well_formed() -> None:
    well_formed({"environment": ENVIRONMENT, "rows": [{"per_s": 1.5, "kept": None, "in_time": True}]}, ONE)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"rows": [1]}, "no environment"),
        ({"environment": ENVIRONMENT, "rows": []}, "no rows"),
        ({"environment": {"cpu": "a"}, "rows": [1]}, "where it ran"),
    ],
)
def test_what_lacks_a_part_is_not(result: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        well_formed(result, ONE)


def test_a_server_that_failed_is_found() -> None:
    all_ran({"runs": [{"failed": []}]}, ONE)
    with pytest.raises(ValueError, match="not all of one ran"):
        all_ran({"runs": [{"failed": []}, {"failed": [{"server": "one"}]}]}, ONE)


def test_every_measurement_is_a_module_that_can_be_run() -> None:
    for each in ALL:
        assert any((ROOT / "benchmarks" / path).is_file() for path in (f"{each.name}.py", f"{each.name}/__main__.py"))
