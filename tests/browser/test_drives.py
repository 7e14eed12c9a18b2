"""The console's page of drives: timeline, map, frames and labels."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from roadwork_serve.drives.map_files import SEGMENT_COLUMNS
from tests.browser.conftest import Tab, screens, tabs
from tests.browser.journal_server import RECORDING

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(params=["desktop", "phone"])
def drive_tab(
    request: pytest.FixtureRequest, browser: "Browser", drive_url: str, secret: tuple[str, str]
) -> Iterator[Tab]:
    with tabs(browser, drive_url, secret[0], request.param, dark=request.param == "desktop") as open_page:
        yield open_page


@pytest.fixture
def map_files(tmp_path: Path) -> list[Path]:
    """Return a map of one track and one zone, as `roadwork drive` writes it."""
    track = [[11.5 + at / 5000, 48.1 + at / 9000] for at in range(100)]
    features = [
        {"type": "Feature", "geometry": {"type": kind, "coordinates": places}, "properties": properties}
        for kind, places, properties in (
            ("Point", track[50], {"kind": "zone", "zone": 1, "seen": "<img src=x onerror=alert(1)>"}),
            ("LineString", track[45:56], {"kind": "way", "zone": 1}),
            ("LineString", track, {"kind": "track", "drive": RECORDING}),
        )
    ]
    (tmp_path / "zones.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    given = {"file": RECORDING, "zone": 1, "begin_s": 119.5, "end_s": 130, "best_s": 125, "best_in_file_s": 25}
    with (tmp_path / "segments.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, list(SEGMENT_COLUMNS))
        rows.writeheader()
        rows.writerow(given | {"seen": 'cone, "sign: ROAD WORK"'})
    return [tmp_path / "zones.geojson", tmp_path / "segments.csv"]


def test_a_recording_on_its_timeline_and_map(
    drive_tab: Tab, drive_url: str, secret: tuple[str, str], map_files: list[Path]
) -> None:
    page = drive_tab("/console/drive.html")
    page.locator("datalist option").first.wait_for(state="attached")
    assert page.locator("datalist option").first.get_attribute("value") in (RECORDING, f"{RECORDING}.old")
    page.locator("[name=recording]").fill(RECORDING)
    page.get_by_role("button", name="Show").click()
    page.get_by_text("240 frames and clips, 1:59.5 long.").wait_for()
    assert page.locator("#timeline .dot").count() == 240 and page.locator("#timeline .dot.yes").count() == 20
    page.locator("#one h3", has_text=f"{RECORDING} 20.0s.jpg").wait_for()  # the first of the most certain
    assert f"recording={RECORDING}" in page.url

    page.set_input_files("#map", map_files)
    page.get_by_text("Lines and places: 3, segments: 1.").wait_for()
    assert page.locator("#track .track").count() == 1 and page.locator("#track .way").count() == 1
    assert page.locator("#timeline .band-of").count() == 1
    screens(page, "drive", whole=False)
    page.get_by_role("button", name="Zone 1").click()
    page.locator("#one h3", has_text=f"{RECORDING} 25.0s.jpg").wait_for()
    assert page.locator("#time").inner_text() == "0:25.0, 51 of 240"
    page.locator("#keys [data-label=none]").click()
    page.get_by_text("Labelled: none.").wait_for()
    page.locator("#keys [data-label=none][aria-pressed=true]").wait_for()
    found = httpx.get(f"{drive_url}/v1/journal?filename=%2025.0s", headers={"X-API-Key": secret[0]}).json()
    assert [each["human_label"] for each in found["entries"]] == ["none"]
    page.locator("#at").press("End")
    page.locator("#one h3", has_text=f"{RECORDING} 119.5s.jpg").wait_for()


def test_what_is_no_map_or_no_recording_is_said(drive_tab: Tab, tmp_path: Path) -> None:
    page = drive_tab("/console/drive.html?recording=nothing.mp4")
    page.get_by_text("No frame of this recording is in the journal.").wait_for()
    for name, text in (("zones.geojson", "{}"), ("zones.geojson", "no map"), ("segments.csv", "a,b\n1,2\n")):
        (tmp_path / name).write_text(text)
        page.set_input_files("#map", tmp_path / name)
        page.get_by_text(f"{name} is not a file that roadwork drive wrote").wait_for()
        page.set_input_files("#map", [])
    assert page.locator("#track").is_hidden() and page.locator("#timeline").is_hidden()
