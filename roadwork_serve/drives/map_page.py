"""The map of drives as one HTML page that opens from disk: no scripts, and no requests but for tiles that are named."""

import base64
import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import urlsplit

from roadwork_serve.drives.assembly import DriveMap
from roadwork_serve.drives.map_files import track_points
from roadwork_serve.drives.track import Fix
from roadwork_serve.drives.zones import Drive, Zone
from roadwork_serve.errors import ConfigError

#: JPEGs of the best frames, by the numbers of drive and segment, counted from 0.
Frames = Mapping[tuple[int, int], bytes]
_WIDTH, _HEIGHT, _MARGIN, _TILE = 960, 560, 40, 256  # pixels
_MAX_ZOOM = 18
_MAX_LATITUDE = 85.05  # of Web Mercator
_POINTS = 2_000  # of a track that are drawn
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1000px;padding:1rem;color:#1c1c1c;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}svg{width:100%;height:auto;background:#f2f1ec;border-radius:6px}
.track{fill:none;stroke:#5b6b7a;stroke-width:2.5;stroke-linejoin:round}.way{fill:none;stroke:#d9480f;stroke-width:6;
stroke-linecap:round;opacity:.75}.zone{fill:#d9480f;stroke:#fff;stroke-width:1.5}.ended{fill:#868e96;stroke:#868e96}
.way.ended{fill:none}
text{font:12px system-ui,sans-serif;fill:#1c1c1c}.number{font-weight:600;fill:#fff;text-anchor:middle}
.zones{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:1rem}article{border:1px solid #ddd;
border-radius:6px;overflow:hidden}article:target{outline:3px solid #d9480f}article img{width:100%;display:block}
article div{padding:.5rem .75rem}.muted{color:#666}ul{padding-left:1.2rem}
@media (prefers-color-scheme:dark){body{background:#161616;color:#eee}svg{background:#242424}text{fill:#eee}
article{border-color:#444}.muted{color:#aaa}}
"""


def map_page(found: DriveMap, frames: Frames, tiles: str | None = None) -> str:
    """Return the page.

    Args:
        found: The map.
        frames: The best frames.
        tiles: URL of map tiles with {z}, {x} and {y}, which the browser requests. Without it the map is a drawing.

    Raises:
        ConfigError: The URL is not one of tiles.

    """
    sources = "data:" if tiles is None else f"data: {tile_origin(tiles)}"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src {sources}"
    ended = sum(each.status == "ended" for each in found.zones)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_counted(len(found.zones), 'work zone')}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_counted(len(found.zones), 'work zone')} on {_counted(len(found.drives), 'drive')}, {ended} ended</h1>",
        _map(found, tiles),
        "<h2>Timeline</h2>",
        *(_timeline(found, at, drive) for at, drive in enumerate(found.drives)),
        '<h2>Zones</h2><div class="zones">',
        *(_zone_card(found, number, zone, frames) for number, zone in enumerate(found.zones, 1)),
        "</div>",
        *_unplaced(found, frames),
    ]
    if found.notes:
        parts += ["<h2>Notes</h2><ul>", *(f"<li>{escape(each)}</li>" for each in found.notes), "</ul>"]
    return "".join([*parts, "</body></html>\n"])


class _View(NamedTuple):
    """A part of the world (Web Mercator)."""

    #: Width of the map of the world in pixels.
    side: float
    left: float
    top: float

    @property
    def zoom(self) -> int:
        """The zoom level of tiles that fit, if the scale is that of one."""
        return round(math.log2(self.side / _TILE))

    def point(self, fix: Fix) -> tuple[float, float]:
        """Return where a position is drawn."""
        x, y = _mercator(fix)
        return x * self.side - self.left, y * self.side - self.top


def _mercator(fix: Fix) -> tuple[float, float]:
    """Return a position in fractions of the map of the world, from its north-west corner."""
    latitude = math.radians(min(max(fix.latitude, -_MAX_LATITUDE), _MAX_LATITUDE))
    return (fix.longitude + 180) / 360, (1 - math.asinh(math.tan(latitude)) / math.pi) / 2


def _view(points: Sequence[Fix], tiled: bool) -> _View:
    """Return the largest scale at which all points are in the picture; that of a zoom level if it is `tiled`."""
    xs, ys = zip(*map(_mercator, points), strict=True)
    wide, high = max(max(xs) - min(xs), 1e-12), max(max(ys) - min(ys), 1e-12)
    side = min((_WIDTH - 2 * _MARGIN) / wide, (_HEIGHT - 2 * _MARGIN) / high, _TILE * 2.0**_MAX_ZOOM)
    if tiled:
        side = _TILE * 2.0 ** math.floor(max(0.0, math.log2(side / _TILE)))
    return _View(side, (max(xs) + min(xs)) / 2 * side - _WIDTH / 2, (max(ys) + min(ys)) / 2 * side - _HEIGHT / 2)


def _map(found: DriveMap, tiles: str | None) -> str:
    tracks = [track_points(each.track) for each in found.drives if each.track is not None]
    points = [point for track in tracks for point in track]
    if not points:
        return '<p class="muted">No drive has positions, so there is no map.</p>'
    view = _view(points, tiles is not None)
    drawn = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Map of the drives">']
    if tiles is not None:
        drawn += _tiles(view, tiles)
    drawn += [_path(view, track[:: max(1, len(track) // _POINTS)], "track") for track in tracks]
    for number, zone in enumerate(found.zones, 1):
        style = " ended" if zone.status == "ended" else ""
        drawn.append(_path(view, zone.longest.path, f"way{style}"))
        x, y = view.point(zone.place)
        drawn.append(
            f'<a href="#zone-{number}"><circle class="zone{style}" cx="{x:.1f}" cy="{y:.1f}" r="10"/>'
            f'<text class="number" x="{x:.1f}" y="{y + 4:.1f}">{number}</text></a>'
        )
    return "".join([*drawn, _scale(view, points[0]), "</svg>"])


def _tiles(view: _View, url: str) -> Iterator[str]:
    for column in range(math.floor(view.left / _TILE), math.floor((view.left + _WIDTH) / _TILE) + 1):
        for row in range(math.floor(view.top / _TILE), math.floor((view.top + _HEIGHT) / _TILE) + 1):
            if 0 <= row < 2**view.zoom:
                address = url.replace("{z}", str(view.zoom)).replace("{x}", str(column % 2**view.zoom))
                x, y = column * _TILE - view.left, row * _TILE - view.top
                yield (
                    f'<image href="{escape(address.replace("{y}", str(row)))}" x="{x:.1f}" y="{y:.1f}" '
                    f'width="{_TILE}" height="{_TILE}"/>'
                )


def _path(view: _View, points: Sequence[Fix], style: str) -> str:
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(view.point, points))
    return f'<polyline class="{style}" points="{drawn}"/>'


def _scale(view: _View, near: Fix) -> str:
    """Return a scale bar of a round length."""
    metres_per_pixel = 40_075_017 * math.cos(math.radians(near.latitude)) / view.side
    longest = 160 * metres_per_pixel
    power = 10 ** math.floor(math.log10(longest))
    metres = next(each * power for each in (5, 2, 1) if each * power <= longest)
    shown = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    y, end = _HEIGHT - 16, 16 + metres / metres_per_pixel
    return (
        f'<path d="M16 {y}H{end:.1f}" stroke="currentColor" stroke-width="2"/><text x="16" y="{y - 6}">{shown}</text>'
    )


def _timeline(found: DriveMap, at: int, drive: Drive) -> str:
    """Return a bar of a drive with its segments, which lead to their zones."""
    end_s = max((stop for _, stop in drive.scored_s), default=0.0) or 1.0
    zone_of = {
        each.segment: number
        for number, zone in enumerate(found.zones, 1)
        for each in zone.sightings
        if each.drive is drive
    }
    bars = [
        f'<rect x="{_WIDTH * begin / end_s:.1f}" y="18" width="{max(1.0, _WIDTH * (stop - begin) / end_s):.1f}" '
        'height="14" fill="#adb5bd" opacity=".5"/>'
        for begin, stop in drive.scored_s
    ]
    for number, segment in enumerate(drive.segments):
        where = f"#zone-{zone_of[segment]}" if segment in zone_of else f"#segment-{at}-{number}"
        title = f"{_clock(segment.begin_s)} to {_clock(segment.end_s)}, {segment.probability:.0%}"
        bars.append(
            f'<a href="{where}"><rect class="zone" x="{_WIDTH * segment.begin_s / end_s:.1f}" y="14" height="22" '
            f'width="{max(3.0, _WIDTH * segment.seconds / end_s):.1f}"><title>{title}</title></rect></a>'
        )
    start = "" if drive.start_utc_s is None else f", from {_time(drive.start_utc_s)}"
    label = f"{escape(drive.name)}{start}, {_clock(end_s)}"
    return f'<p>{label}</p><svg viewBox="0 0 {_WIDTH} 48" role="img" aria-label="Timeline">{"".join(bars)}</svg>'


def _zone_card(found: DriveMap, number: int, zone: Zone, frames: Frames) -> str:
    best = max(zone.sightings, key=lambda each: each.segment.probability)
    at = next(index for index, each in enumerate(found.drives) if each is best.drive)
    picture = _picture(frames.get((at, best.drive.segments.index(best.segment))))
    place = zone.place
    times = ""
    if zone.first_utc_s is not None and zone.last_utc_s is not None:
        times = f"First seen {_time(zone.first_utc_s)}, last {_time(zone.last_utc_s)}.<br>"
    passes = f"Seen on {len(zone.sightings)} of {len(zone.sightings) + len(zone.missed_utc_s)} passes"
    return (
        f'<article id="zone-{number}">{picture}<div><b>{number}. {zone.status.capitalize()}</b>, '
        f"{zone.probability:.0%}<br>{place.latitude:.6f}, {place.longitude:.6f} ± {place.accuracy_m:.0f} m<br>{times}"
        f'{passes}.<br><span class="muted">{escape(", ".join(zone.seen))}</span></div></article>'
    )


def _unplaced(found: DriveMap, frames: Frames) -> Iterator[str]:
    """Yield the segments whose place is unknown."""
    placed = {(id(each.drive), each.segment) for zone in found.zones for each in zone.sightings}
    cards = [
        f'<article id="segment-{at}-{number}">{_picture(frames.get((at, number)))}<div><b>{escape(drive.name)}</b>, '
        f"{segment.probability:.0%}<br>{_clock(segment.begin_s)} to {_clock(segment.end_s)}<br>"
        f'<span class="muted">{escape(", ".join(segment.seen))}</span></div></article>'
        for at, drive in enumerate(found.drives)
        for number, segment in enumerate(drive.segments)
        if (id(drive), segment) not in placed
    ]
    if cards:
        yield '<h2>Segments without a place</h2><div class="zones">' + "".join(cards) + "</div>"


def _picture(jpeg: bytes | None) -> str:
    if jpeg is None:
        return ""
    return f'<img alt="The frame that shows it best" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def tile_origin(tiles: str) -> str:
    """Return the origin of a URL of tiles. Raises ConfigError."""
    parts = urlsplit(tiles)
    named = all(each in tiles for each in ("{z}", "{x}", "{y}"))
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not named
        or set(parts.netloc) & set(" ;,'\"<>{}")
    ):
        raise ConfigError(f"{tiles!r} is no URL of tiles; write one such as https://HOST/{{z}}/{{x}}/{{y}}.png")
    return f"{parts.scheme}://{parts.netloc}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _clock(seconds: float) -> str:
    return str(dt.timedelta(seconds=round(seconds)))


def _time(utc_s: float) -> str:
    return f"{dt.datetime.fromtimestamp(utc_s, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
