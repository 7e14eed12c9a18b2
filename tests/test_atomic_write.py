"""Files are replaced in one step, or not at all."""

import json
import math
import os
import threading
from pathlib import Path

import pytest

from roadwork_serve.atomic_write import replace_file, write_json, write_text
from roadwork_serve.errors import ConfigError


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "policy.yaml"
    write_text(path, "old")
    with replace_file(path) as draft:
        draft.write_text("new")
        assert (path.read_text(), draft.parent, draft.suffix) == ("old", path.parent, ".yaml")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_keeps_the_old_content_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), replace_file(path) as draft:
        draft.write_text("half")
        raise KeyError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_each_have_a_draft_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replace_file(path) as first:
        first.write_text("first")
        with replace_file(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_either_the_old_or_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "0" * 100_000)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for digit in "123456789" * 5:
        write_text(path, digit * 100_000)
    done.set()
    reader.join()
    assert all(len(text) == 100_000 and len(set(text)) == 1 for text in seen)


@pytest.mark.parametrize(
    ("mask", "mode", "expected"), [(0o022, 0o666, 0o644), (0o077, 0o666, 0o600), (0o022, 0o600, 0o600)]
)
def test_permissions_are_those_of_an_ordinary_new_file(tmp_path: Path, mask: int, mode: int, expected: int) -> None:
    before = os.umask(mask)
    try:
        with replace_file(tmp_path / "a.txt", mode=mode) as draft:
            draft.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == expected


def test_a_disk_that_refuses_is_a_configuration_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/a.txt cannot be written: .*; name another file"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_callers_can_get_the_original_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), replace_file(tmp_path / "a.txt", os_errors=True):
        raise OSError("No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (2, "x")}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5], "c": {"d": [2, "x"]}}
