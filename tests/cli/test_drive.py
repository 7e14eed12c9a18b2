from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from roadwork_serve.cli import classify
from roadwork_serve.cli.main import app
from tests.drives import made
from tests.drives.test_run import ByBrightness, picture


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["drive", *map(str, arguments)])


@pytest.fixture
def cascade(monkeypatch: pytest.MonkeyPatch) -> ByBrightness:
    """Put a cascade that goes by brightness in the place of the server."""
    asked = ByBrightness()

    @asynccontextmanager
    async def from_server(url: str) -> AsyncIterator[ByBrightness]:
        assert url == "http://127.0.0.1:8000"
        yield asked

    monkeypatch.setattr(classify, "from_server", from_server)
    return asked


def test_recordings_and_a_track_become_a_map(tmp_path: Path, cascade: ByBrightness) -> None:
    (tmp_path / "20260504_103005.mp4").write_bytes(made.video(16, picture=picture))
    (tmp_path / "ride.gpx").write_text(made.gpx(made.places()))
    options = ("--server", "http://127.0.0.1:8000", "--track", tmp_path / "ride.gpx", "--out", tmp_path / "map")
    result = run(tmp_path / "20260504_103005.mp4", *options)
    assert result.exit_code == 0, result.output
    assert "Segments: 1, zones: 1" in result.output and "moved by -7,200.0 s, by its time zone" in result.output
    assert (tmp_path / "map/index.html").is_file()
    asked = len(cascade.names)
    assert run(tmp_path / "20260504_103005.mp4", *options).exit_code == 0 and len(cascade.names) == asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tiles", "https://tiles.example.org"), "is no URL of tiles"),
        (("--track", "gone.gpx"), "gone.gpx cannot be read"),
        (("--track", "ride.mp4"), "holds no track"),
    ],
)
def test_wrong_options_are_errors_before_the_work(
    tmp_path: Path, cascade: ByBrightness, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ride.mp4").write_bytes(b"not a recording")
    result = run("ride.mp4", "--server", "http://127.0.0.1:8000", "--out", "map", *options)
    assert result.exit_code == 2 and message in result.output and cascade.names == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gpxpy" else object())
    result = run(tmp_path, "--out", tmp_path / "map")
    assert result.exit_code == 2 and "gpxpy not installed; pip install 'roadwork-serve[drives]'" in result.output
