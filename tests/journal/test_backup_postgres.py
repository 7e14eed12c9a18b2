"""Backups of a journal in PostgreSQL, where its programs are installed."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.backup_postgres import back_up, restore
from roadwork_serve.journal.store import Store
from tests.journal import postgres
from tests.journal.made import entry

PHOTO = b"\xff\xd8\xff photo"


pytestmark = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@pytest.fixture
def journal(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a journal with two entries; the client programs are those of the server."""
    monkeypatch.setenv("PATH", f"{postgres.programs()}{os.pathsep}{os.environ['PATH']}")
    with closing(Store.open(url)) as store:
        store.commit([entry("a"), entry("b")])
    return url


def entries_in(url: str) -> list[str]:
    with closing(Store.open(url)) as store:
        return sorted(row.prediction.id for row in store.find())


def test_a_dump_is_restored(journal: str, tmp_path: Path) -> None:
    media = tmp_path / "media" / "ab"
    media.mkdir(parents=True)
    (media / "photo.jpg").write_bytes(PHOTO)
    copied = back_up(journal, None, tmp_path / "out", tmp_path / "media")
    assert (copied.entries, copied.media_files) == (2, 1)
    with closing(Store.open(journal)) as store:
        store.commit([entry("c")])
    with pytest.raises(ConfigError, match=r"has entries \(3\); pass --replace"):
        restore(journal, None, tmp_path / "out", tmp_path / "new")
    assert restore(journal, None, tmp_path / "out", tmp_path / "new", replace=True) == copied
    assert entries_in(journal) == ["a", "b"]
    assert (tmp_path / "new" / "ab" / "photo.jpg").read_bytes() == PHOTO


def test_a_damaged_dump_changes_nothing(journal: str, tmp_path: Path) -> None:
    back_up(journal, None, tmp_path / "out.dump")
    assert (tmp_path / "out.dump").stat().st_mode & 0o777 == 0o600
    data = (tmp_path / "out.dump").read_bytes()
    (tmp_path / "out.dump").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match="nothing was written"):
        restore(journal, None, tmp_path / "out.dump", None, replace=True)
    assert entries_in(journal) == ["a", "b"]


def test_without_its_programs_the_error_names_the_package(
    journal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"pg_dump is not installed.*postgresql-client"):
        back_up(journal, None, tmp_path / "out.dump")
    assert list(tmp_path.glob("*.dump")) == []
