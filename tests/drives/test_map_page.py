import re

import pytest

from roadwork_serve.drives.assembly import Chapter, DriveMap
from roadwork_serve.drives.map_page import map_page
from roadwork_serve.drives.segments import Segment
from roadwork_serve.drives.sources import Path, Recording
from roadwork_serve.drives.track import Fix, Track
from roadwork_serve.drives.zones import Drive, find_zones
from roadwork_serve.errors import ConfigError
from tests.drives import made

NAME = "<script>alert(1)</script>.mp4"


def found(track: bool = True) -> DriveMap:
    fixes = [Fix(*place) for place in made.places(60)]
    segments = (Segment(10, 20, 0.97, 15, ('sign: "<b>END</b>"',)), Segment(40, 45, 0.8, 42))
    where = Track.of(fixes, "video", "made") if track else None
    drives = (Drive(NAME, segments, where, made.START.timestamp(), ((0, 60),)),)
    chapters = ((Chapter(Recording(Path(NAME), NAME), 0.0),),)
    return DriveMap(drives, chapters, tuple(find_zones(drives)), ("a & b",))


def test_the_page_runs_and_loads_nothing() -> None:
    page = map_page(found(), {(0, 0): b"\xff\xd8jpeg"})
    assert "<script" not in page and "<b>END" not in page and "a &amp; b" in page
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page.replace("&#x27;", "'")
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    assert page.count('<article id="zone-') == 2 and 'href="#zone-1"' in page and "10 s" not in page


def test_tiles_are_loaded_from_the_url_that_is_named() -> None:
    page = map_page(found(), {}, "https://tiles.example.org/{z}/{x}/{y}.png?a=1&b=2")
    assert "img-src data: https://tiles.example.org" in page
    loaded = re.findall(r'<image href="([^"]*)"', page)
    assert 4 <= len(loaded) <= 40 and all(each.endswith("?a=1&amp;b=2") for each in loaded)
    zoom, column, row = map(int, re.findall(r"\d+", loaded[0])[:3])
    assert column / 2**zoom == pytest.approx((made.LONGITUDE + 180) / 360, abs=4 / 2**zoom) and 0 < row < 2**zoom


@pytest.mark.parametrize("url", ["tiles", "file:///etc/{z}/{x}/{y}", "https://a/{z}/{x}", "https://a b/{z}/{x}/{y}",
                                 "https://a;script-src/{z}/{x}/{y}"])  # fmt: skip
def test_what_is_no_url_of_tiles_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL of tiles"):
        map_page(found(), {}, url)


def test_segments_without_a_place_are_shown() -> None:
    page = map_page(found(track=False), {})
    assert "there is no map" in page and "Segments without a place" in page and 'id="segment-0-1"' in page
