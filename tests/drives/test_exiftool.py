"""A program in the place of ExifTool prints what ExifTool 12.57 does."""

import os
from pathlib import Path

import pytest

from roadwork_serve.drives.exiftool import exiftool_track
from roadwork_serve.errors import ConfigError
from tests.drives import made


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    (folder / "printed").write_text("\n".join(lines) + "\n")
    program = folder / "exiftool"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ntest -f "$last" && cat {folder}/printed\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def rows(sample: bool) -> list[str]:
    return [
        f"{at if sample else '-'},2026:05:04 08:30:{int(at):02}.000,{lat:.7f},{lon}" for at, lat, lon in made.places(20)
    ]


@pytest.mark.parametrize("sample", [True, False])
def test_positions_are_on_the_clock_of_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: bool) -> None:
    install(tmp_path, monkeypatch, ["-,-,-,-", *rows(sample), "0,nonsense", "1,-,x,y"])
    (tmp_path / "a.mp4").touch()
    track = exiftool_track(tmp_path / "a.mp4", "a.mp4")
    assert track and (track.clock, track.begin_s, track.end_s) == ("video", 0, 19)
    assert track.start_utc_s == made.START.timestamp()


def test_no_positions_and_no_program_give_no_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").touch()
    install(tmp_path, monkeypatch, ["-,-,-,-"])
    assert exiftool_track(tmp_path / "a.mp4", "a.mp4") is None
    install(tmp_path, monkeypatch, rows(True)[:1])
    with pytest.raises(ConfigError, match="1 usable positions"):
        exiftool_track(tmp_path / "a.mp4", "a.mp4")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert exiftool_track(tmp_path / "a.mp4", "a.mp4") is None
