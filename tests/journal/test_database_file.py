"""An SQLite journal whose file is removed or replaced while it is open."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roadwork_serve.errors import BadRequest, JournalDown
from roadwork_serve.journal.record import Annotation
from roadwork_serve.journal.store import Store
from tests.journal.made import entry
from tests.tmpfs import fill, small_disk


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal" / "journal.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{file}")
    store.commit([entry("old")])
    yield store
    store.close()


def entries_in(file: Path) -> list[str]:
    """Return what another process reads from the file that has the name."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM predictions ORDER BY id")]


def test_after_the_folder_was_removed_a_commit_is_in_the_file_of_that_name(
    store: Store, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(file.parent)
    store.commit([entry("new")])
    assert entries_in(file) == ["new"]
    assert f"{file} was removed or replaced while it was open; its 1 entries are no longer" in caplog.text


def test_what_is_made_anew_belongs_to_this_user_alone(store: Store, file: Path) -> None:
    shutil.rmtree(file.parent.parent)
    mask = os.umask(0o022)
    try:
        store.commit([entry("new")])
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (file.parent, file.parent.parent)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}


def test_removed_before_the_commit_returns_it_is_written_again(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, removed = Store._commit, []

    def commit(store: Store, records: list) -> None:
        really(store, records)
        if not removed:
            removed.append(shutil.rmtree(file.parent))

    monkeypatch.setattr(Store, "_commit", commit)
    store.commit([entry("new")])
    assert entries_in(file) == ["new"]


def test_a_file_that_is_replaced_whenever_it_is_written_to_is_an_error(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Store._commit

    def commit(store: Store, records: list) -> None:
        really(store, records)
        file.unlink()

    monkeypatch.setattr(Store, "_commit", commit)
    with pytest.raises(JournalDown, match="replaced again and again"):
        store.commit([entry("new")])


@pytest.mark.parametrize("logs", [True, False])
def test_another_journal_moved_into_its_place_gets_the_records(
    store: Store, file: Path, tmp_path: Path, logs: bool
) -> None:
    other = Store.open(f"sqlite:///{tmp_path / 'other.db'}")
    other.commit([entry("other")])
    other.close()
    if logs:
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink()
    (tmp_path / "other.db").replace(file)
    store.commit([entry("new")])
    assert entries_in(file) == ["new", "other"]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_without_its_log_no_entry_is_lost(store: Store, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.with_name(file.name + "-wal").unlink()
    store.commit([entry("new")])
    assert entries_in(file) == ["new", "old"]
    assert "write-ahead log" in caplog.text


def test_readers_and_labels_follow_too(store: Store, file: Path) -> None:
    shutil.rmtree(file.parent)
    assert store.count() == 0 and list(store.find()) == []
    shutil.rmtree(file.parent)
    with pytest.raises(BadRequest, match="has no prediction old"):
        store.annotate([("old", Annotation("none", "ann", 1.0))])


def test_a_folder_that_cannot_be_made_keeps_the_records_waiting(store: Store, file: Path) -> None:
    shutil.rmtree(file.parent)
    file.parent.write_text("a file in the folder's place")
    with pytest.raises(JournalDown, match=f"cannot be used: E[A-Z]+ .*: {file.parent}"):
        store.commit([entry("new")])
    file.parent.unlink()
    store.commit([entry("new")])
    assert entries_in(file) == ["new"]


def test_an_untouched_file_is_not_opened_again(store: Store, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(Store.open(f"sqlite:///{file}")) as other:
        for number in range(5):
            store.commit([entry(f"{number}")])
            assert other.count() == number + 2
    assert not caplog.records


def test_a_full_disk_is_an_error_that_names_it_and_the_path(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        store = Store.open(f"sqlite:///{disk / 'journal.db'}")
        ballast = fill(disk)
        with pytest.raises(JournalDown) as caught:
            for number in range(100):
                store.commit([entry(f"{number}-{part}") for part in range(20)])
        assert caught.value.code == "ENOSPC"
        assert f"ENOSPC No space left on device: {disk / 'journal.db'}" in str(caught.value)
        ballast.unlink()
        store.commit([entry("new")])
        assert "new" in entries_in(disk / "journal.db")
        store.close()


def test_a_full_disk_at_the_start_is_said_as_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        fill(disk)
        with pytest.raises(JournalDown) as caught:
            Store.open(f"sqlite:///{disk / 'journal.db'}")
        assert caught.value.code == "ENOSPC"
