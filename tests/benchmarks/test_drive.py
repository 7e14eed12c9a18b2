"""The comparison of a map with the truth of rendered drives."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks import drive
from benchmarks.environment import Environment
from roadwork_serve.testbed.scenes.drive_plan import DrivePlan

NAMES = ("20260504_083000.mp4", "20260505_083000.mp4")


def write_map(folder: Path, plans: list[DrivePlan], late_s: float, missing: int = 0, false: int = 0) -> None:
    """Write the tables of a map whose segments begin late, some zones missing and some of them false."""
    begins = {zone.begin_m for zone in plans[1].zones}
    with (folder / "zones.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("latitude", "longitude", "status"))
        for zone in plans[0].zones[missing:]:
            place = plans[0].place_at((zone.begin_m + zone.end_m) / 2 + 5)
            rows.writerow((*place, "active" if zone.begin_m in begins else "ended"))
        rows.writerows((10.0 + at, 10.0, "active") for at in range(false))
    with (folder / "segments.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("drive", "begin_s", "end_s"))
        for plan, name in zip(plans, NAMES, strict=True):
            rows.writerows((name, begin + late_s, end) for begin, end in plan.sights())


def test_a_map_is_compared_with_the_truth(tmp_path: Path) -> None:
    plans = drive.plans(300, 8)
    for name in NAMES:
        (tmp_path / name).touch()
    write_map(tmp_path, plans, late_s=0.5, missing=2, false=1)
    score = {"kind": "frame", "file": "a", "probability": 0.5}
    lines = [score, score | {"time_s": 0.5}, score | {"kind": "clip", "time_s": 0.5}, score | {"kind": "done"}, score]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    environment = Environment.here("test")
    result = drive.measure(tmp_path, tmp_path, plans, environment, (100.0, 400.0), True, 60.0)
    assert result.repeated_scores == 1
    assert (result.zones, result.recall, result.precision, result.status_right) == (8, 0.75, round(6 / 7, 4), 1.0)
    assert (result.begin_error_s, result.begin_bias_s, result.end_error_s) == (0.5, 0.5, 0.0)
    assert result.place_error_m == pytest.approx(5, abs=1) and 0.7 < result.temporal_iou < 1
    assert result.speed == pytest.approx(sum(plan.seconds for plan in plans) / 100, abs=0.01)


def test_the_second_drive_lacks_the_zones_that_ended() -> None:
    first, second = drive.plans(300, 8)
    assert len(first.zones) == 8 and len(second.zones) == 6
    assert all(end < plan.seconds for plan in (first, second) for _, end in plan.sights())
