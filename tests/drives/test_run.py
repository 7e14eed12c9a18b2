"""Whole runs with a classifier that goes by brightness: bright pictures are road work."""

import asyncio
import csv
import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from roadwork_serve.drives.assembly import Assembly, DriveMap
from roadwork_serve.drives.geometry import distance_m
from roadwork_serve.drives.run import DriveRun, DriveSpec, map_drives, other_track
from roadwork_serve.drives.scoring import ScoringSettings
from roadwork_serve.drives.sources import find_recordings
from roadwork_serve.errors import ConfigError, NoOpinion, ServerUnreachable
from roadwork_serve.media import read
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.schema import Evidence, Exit, Region, StageReport, Verdict
from tests.drives import made

LIMITS = MediaLimits()
SPEC = DriveSpec(cascade="brightness", step_s=0.5, version="1")
WORKS_S = (8.0, 14.0)
BOX = {"x0": 0, "y0": 0, "x1": 1, "y1": 1}


class ByBrightness:
    """A cascade. `fails_at` is the call at which the server is gone."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.names: list[str] = []
        self.fails_at = fails_at

    async def __call__(self, data: bytes, name: str) -> Verdict:
        await asyncio.sleep(0)
        if self.fails_at is not None and len(self.names) >= self.fails_at:
            raise ServerUnreachable("the server is gone")
        self.names.append(name)
        level = float(read(data, LIMITS).thumbs.mean())
        if level < 20:
            raise NoOpinion("it is dark")
        probability = float(np.clip((level - 60) / 140, 0.02, 0.98))
        cone = Region.model_validate({"kind": "cone", "probability": 0.9, "box": BOX})
        seen = Evidence(regions=[cone] if probability > 0.5 else [])
        return Verdict(
            request_id=name,
            media="clip" if name.endswith("mp4") else "photo",
            label="roadwork" if probability >= 0.5 else "none",
            probability=probability,
            exit=Exit(stage="backbone", reason="above_band"),
            stages=[StageReport(stage="backbone", outcome="answered", probability=probability, evidence=seen)],
            policy_version="1",
            profile="test",
            elapsed_ms=1,
        )


def picture(at_s: float) -> np.ndarray:
    """Return moving bars, bright while there is road work and in doubt for a second before."""
    level = 200 if WORKS_S[0] <= at_s < WORKS_S[1] else 125 if WORKS_S[0] - 1 <= at_s < WORKS_S[0] else 62
    bars = (np.arange(320) + 90 * at_s) // 20 % 2 * 40
    return np.broadcast_to((level - 20 + bars).astype(np.uint8)[None, :, None], (240, 320, 3)).copy()


@pytest.fixture(scope="module")
def recording() -> bytes:
    return made.video(20, picture=picture, telemetry=made.gps5)


@pytest.fixture
def folder(recording: bytes, tmp_path: Path) -> Path:
    (tmp_path / "card").mkdir()
    (tmp_path / "card/GX010007.MP4").write_bytes(recording)
    return tmp_path / "card"


def run(folder: Path, out: Path, classify: ByBrightness, tracks: tuple[()] = ()) -> DriveMap:
    settings = ScoringSettings()
    job = DriveRun(out, SPEC, LIMITS, settings)
    with job.opened() as log:
        assembly = Assembly(settings.model, tracks, other_track=other_track)
        found = asyncio.run(map_drives(job, find_recordings([folder]), log, classify, assembly))
        job.write(found)
    return found


def test_a_recording_becomes_a_map(folder: Path, tmp_path: Path) -> None:
    cascade = ByBrightness()
    found = run(folder, tmp_path / "out", cascade)
    (drive,), (zone,) = found.drives, found.zones
    (segment,) = drive.segments
    assert (segment.begin_s, segment.end_s) == pytest.approx(WORKS_S, abs=1.0) and segment.seen == ("cone",)
    assert drive.start_utc_s == pytest.approx(made.START.timestamp())
    middle = made.LATITUDE + 13.7 * made.STEP_DEG  # a little ahead of the camera
    assert distance_m(zone.place.latitude, zone.place.longitude, middle, made.LONGITUDE) < 8
    assert any(name.endswith("s.mp4") for name in cascade.names), "the moment in doubt is sent as a clip"
    assert len([name for name in cascade.names if name.endswith("s.jpg")]) == 40

    out = tmp_path / "out"
    features = json.loads((out / "zones.geojson").read_text())["features"]
    assert [each["properties"]["kind"] for each in features] == ["zone", "way", "track"]
    assert features[0]["geometry"]["coordinates"] == pytest.approx([zone.place.longitude, zone.place.latitude])
    (row,) = csv.DictReader((out / "segments.csv").read_text().splitlines())
    assert row["file"] == "GX010007.MP4" and row["zone"] == "1" and row["seen"] == "cone"
    assert 8 <= float(row["best_in_file_s"]) == float(row["best_s"]) <= 14
    assert pq.read_table(out / "segments.parquet").to_pylist()[0]["begin_s"] == pytest.approx(8, abs=1)
    assert pq.read_table(out / "zones.parquet").to_pylist()[0]["status"] == "active"
    assert (out / row["frame"]).read_bytes()[:2] == b"\xff\xd8"
    page = (out / "index.html").read_text()
    assert "1 work zone on 1 drive, 0 ended" in page and "data:image/jpeg;base64," in page and "<script" not in page


@pytest.mark.parametrize("fails_at", [13, 40])
def test_an_interrupted_run_continues_without_loss_or_repetition(folder: Path, tmp_path: Path, fails_at: int) -> None:
    whole = run(folder, tmp_path / "whole", ByBrightness())
    first, second = ByBrightness(fails_at), ByBrightness()
    with pytest.raises(ServerUnreachable):
        run(folder, tmp_path / "out", first)
    log = tmp_path / "out/scores.jsonl"
    with log.open("ab") as file:
        file.write(b'{"kind": "frame", "fil')  # killed while it wrote a line
    resumed = run(folder, tmp_path / "out", second)
    assert resumed.drives[0].segments == whole.drives[0].segments
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    keys = [(line["kind"], line["file"], line.get("time_s", 0.0)) for line in lines]
    assert len(keys) == len(set(keys)) and len([key for key in keys if key[0] == "frame"]) == 40
    assert len(set(first.names) & set(second.names)) <= ScoringSettings().concurrent
    third = ByBrightness()
    run(folder, tmp_path / "out", third)
    assert third.names == []


def test_chapters_are_one_drive(recording: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / "GX020007.MP4").write_bytes(made.video(6, picture=lambda at_s: picture(at_s + 8), telemetry=made.gps5))
    (folder / "GX010008.MP4").write_bytes(made.video(5, picture=lambda at_s: picture(at_s)))
    found = run(folder, tmp_path / "out", ByBrightness())
    assert [drive.name for drive in found.drives] == ["GX010007.MP4", "GX010008.MP4"]
    assert found.drives[0].scored_s[-1][1] == pytest.approx(25.5, abs=0.3)
    assert [each.begin_s for each in found.chapters[0]] == pytest.approx([0, 20], abs=0.2)
    assert any("GX010008.MP4 has no positions" in note for note in found.notes)
    rows = list(csv.DictReader((tmp_path / "out/segments.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["GX010007.MP4", "GX020007.MP4"]
    assert float(rows[1]["best_s"]) - float(rows[1]["best_in_file_s"]) == pytest.approx(20, abs=0.2)


def test_damaged_files_copies_and_dark_frames_are_noted(folder: Path, recording: bytes, tmp_path: Path) -> None:
    (folder / "broken.mp4").write_bytes(recording[:3000])
    whole = made.video(12, picture=lambda at_s: picture(at_s + 3), format="matroska")
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "copy").mkdir()
    (folder / "copy/GX010007.MP4").write_bytes(recording)
    (folder / "dark.mkv").write_bytes(made.video(3, picture=lambda _: np.zeros((240, 320, 3), np.uint8)))
    found = run(folder, tmp_path / "out", ByBrightness())
    notes = "\n".join(found.notes)
    assert "broken.mp4: the recording is damaged" in notes
    assert "cut.mkv is damaged or its end is missing" in notes
    assert "has the bytes of" in notes and "have no score (no-opinion)" in notes
    assert len(found.zones) == 1


def test_photos_with_positions_are_a_drive(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for at, lat, lon in made.places(12):
        level = 200 if 4 <= at < 8 else 62
        jpeg = made.photo(lat, lon, made.START + timedelta(seconds=at), level)
        (tmp_path / f"photos/{round(97 * at) % 50:02}.jpg").write_bytes(jpeg)
    found = run(tmp_path / "photos", tmp_path / "out", ByBrightness())
    (segment,), (zone,) = found.drives[0].segments, found.zones
    assert (segment.begin_s, segment.end_s) == pytest.approx((3.5, 7.5), abs=0.6)
    assert distance_m(zone.place.latitude, zone.place.longitude, made.LATITUDE + 7.5 * made.STEP_DEG, 11.5) < 8


def test_a_folder_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", ByBrightness())
    other = DriveRun(tmp_path / "out", SPEC.model_copy(update={"step_s": 1.0}), LIMITS, ScoringSettings())
    with pytest.raises(ConfigError, match="a run with a different step_s"), other.opened():
        pass
    same = DriveRun(tmp_path / "out", SPEC, LIMITS, ScoringSettings())
    with same.opened(), pytest.raises(ConfigError, match="another run is writing"), same.opened():
        pass
    (tmp_path / "out/scores.jsonl").write_text('{"kind": "lunch"}\n')
    with pytest.raises(ConfigError, match="is not of a score log"), same.opened():
        pass


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recording or photo is there"):
        find_recordings([tmp_path])
    with pytest.raises(ConfigError, match="does not exist"):
        find_recordings([tmp_path / "gone"])
