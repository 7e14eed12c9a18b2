"""The map of drives as files for other programs: GeoJSON, CSV and Parquet."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from roadwork_serve.atomic_write import replace_file, write_json
from roadwork_serve.drives.assembly import DriveMap, chapter_at
from roadwork_serve.drives.track import Fix, Track
from roadwork_serve.drives.zones import PlacedSegment, Zone
from roadwork_serve.table_files import table_writer

SEGMENT_COLUMNS: Mapping[str, type] = {
    "drive": str, "file": str, "segment": int, "zone": int, "begin_s": float, "end_s": float, "begin": dt.datetime,
    "end": dt.datetime, "probability": float, "best_s": float, "best_in_file_s": float, "seen": str,
    "latitude": float, "longitude": float,
    "accuracy_m": float, "heading_deg": float, "frame": str,
}  # fmt: skip
ZONE_COLUMNS: Mapping[str, type] = {
    "zone": int, "latitude": float, "longitude": float, "accuracy_m": float, "probability": float, "seen": str,
    "first_seen": dt.datetime, "last_seen": dt.datetime, "passes_seen": int, "passes_not_seen": int, "status": str,
}  # fmt: skip
_TABLES = (".csv", ".parquet")
_DIGITS = 7  # of a coordinate: a centimetre


def write_map_files(folder: Path, found: DriveMap) -> None:
    """Write zones.geojson, and segments and zones as CSV and Parquet, each in one step. Raises ConfigError."""
    write_json(folder / "zones.geojson", geojson(found))
    for name, columns, rows in (
        ("segments", SEGMENT_COLUMNS, segment_rows(found)),
        ("zones", ZONE_COLUMNS, zone_rows(found.zones)),
    ):
        for suffix in _TABLES:
            with replace_file(folder / f"{name}{suffix}") as draft, table_writer(draft, columns) as write:
                write(rows)


def segment_rows(found: DriveMap) -> list[dict[str, Any]]:
    """Return one row for each segment, in the order of drives and times."""
    placed = {
        (id(each.drive), each.segment): (number, each)
        for number, zone in enumerate(found.zones, 1)
        for each in zone.sightings
    }
    rows: list[dict[str, Any]] = []
    for at, (drive, chapters) in enumerate(zip(found.drives, found.chapters, strict=True)):
        for number, segment in enumerate(drive.segments, 1):
            zone, sighting = placed.get((id(drive), segment), (None, None))
            chapter = chapter_at(chapters, segment.best_s)
            rows.append(
                {
                    "drive": drive.name,
                    "file": chapter.recording.name,
                    "segment": number,
                    "zone": zone,
                    "begin_s": round(segment.begin_s, 2),
                    "end_s": round(segment.end_s, 2),
                    "begin": _time(drive.utc_s(segment.begin_s)),
                    "end": _time(drive.utc_s(segment.end_s)),
                    "probability": round(segment.probability, 4),
                    "best_s": round(segment.best_s, 2),
                    "best_in_file_s": round(segment.best_s - chapter.begin_s, 2),
                    "seen": ", ".join(segment.seen),
                    "frame": frame_name(at, number - 1),
                    **_place(sighting),
                }
            )
    return rows


def zone_rows(zones: Sequence[Zone]) -> list[dict[str, Any]]:
    """Return one row for each zone."""
    return [{"zone": number} | _zone(zone) for number, zone in enumerate(zones, 1)]


def geojson(found: DriveMap) -> dict[str, Any]:
    """Return a FeatureCollection (RFC 7946): zones as points, their ways as lines, and the tracks of the drives."""
    return {"type": "FeatureCollection", "features": list(_features(found))}


def frame_name(drive: int, segment: int) -> str:
    """Return the name of the best frame of a segment, below the folder of the run; both are counted from 0."""
    return f"frames/{drive + 1:03}-{segment + 1:04}.jpg"


def _features(found: DriveMap) -> Iterator[dict[str, Any]]:
    for number, zone in enumerate(found.zones, 1):
        about = {name: _plain(value) for name, value in _zone(zone).items()}
        point = {"type": "Point", "coordinates": _coordinates(zone.place)}
        yield _feature(point, {"kind": "zone", "zone": number} | about)
        if len(zone.longest.path) > 1:
            yield _feature(_line(zone.longest.path), {"kind": "way", "zone": number})
    for drive in found.drives:
        if drive.track is not None:
            yield _feature(_line(track_points(drive.track)), {"kind": "track", "drive": drive.name})


def track_points(track: Track) -> list[Fix]:
    """Return the fixes of a track."""
    found = (track.at(float(each)) for each in track.times_s)
    return [each for each in found if each is not None]


def _zone(zone: Zone) -> dict[str, Any]:
    place = zone.place
    return {
        "latitude": round(place.latitude, _DIGITS),
        "longitude": round(place.longitude, _DIGITS),
        "accuracy_m": round(place.accuracy_m, 1),
        "probability": round(zone.probability, 4),
        "seen": ", ".join(zone.seen),
        "first_seen": _time(zone.first_utc_s),
        "last_seen": _time(zone.last_utc_s),
        "passes_seen": len(zone.sightings),
        "passes_not_seen": len(zone.missed_utc_s),
        "status": zone.status,
    }


def _place(sighting: PlacedSegment | None) -> dict[str, Any]:
    if sighting is None:
        return dict.fromkeys(("latitude", "longitude", "accuracy_m", "heading_deg"))
    best = min(sighting.path, key=lambda each: abs(each.time_s - sighting.segment.best_s))
    return {
        "latitude": round(best.latitude, _DIGITS),
        "longitude": round(best.longitude, _DIGITS),
        "accuracy_m": round(best.accuracy_m, 1),
        "heading_deg": None if sighting.heading is None else round(sighting.heading, 1),
    }


def _feature(geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _line(path: Sequence[Fix]) -> dict[str, Any]:
    return {"type": "LineString", "coordinates": [_coordinates(each) for each in path]}


def _coordinates(fix: Fix) -> list[float]:
    return [round(fix.longitude, _DIGITS), round(fix.latitude, _DIGITS)]


def _time(utc_s: float | None) -> dt.datetime | None:
    return None if utc_s is None else dt.datetime.fromtimestamp(utc_s, dt.UTC)


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, dt.datetime) else value
