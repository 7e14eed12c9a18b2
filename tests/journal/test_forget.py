"""Entries and files that are deleted for good."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from roadwork_serve.errors import BadRequest
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.forget import Forgotten
from roadwork_serve.journal.record import Annotation
from roadwork_serve.journal.store import Store
from tests.journal.made import audit, entry, report

FACE = b"\xff\xd8\xff somebody's face"
ROAD = b"\xff\xd8\xff a road"
SECRET = "the-caller-to-forget"


@pytest.fixture
def store(opened: Callable[..., Store]) -> Store:
    store = opened(10**6)
    store.commit(
        [
            entry("a", created_at_s=100.0, media=FACE, caller=SECRET),
            entry("again", created_at_s=200.0, media=FACE),
            entry("b", created_at_s=300.0, media=ROAD),
            audit("a", report("signs", None)),
        ]
    )
    store.annotate([("a", Annotation("none", "ann", 1.0)), ("b", Annotation("none", "ann", 1.0))])
    return store


def files(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / "media").rglob("*") if path.is_file()}


def test_an_entry_goes_with_all_that_belongs_to_it(store: Store, tmp_path: Path) -> None:
    assert store.forget(Filter(caller=SECRET)) == Forgotten(1, 1)
    with pytest.raises(BadRequest):
        store.get("a")
    assert [row.prediction.id for row in store.find()] == ["again", "b"]
    assert not store.get("again").media_available and store.get("b").media_available
    assert files(tmp_path) == {ROAD}
    assert store.get("b").annotation is not None
    store.commit([entry("a", created_at_s=400.0)])  # nothing of the old one is left to join it
    assert store.get("a").audit is None and store.get("a").annotation is None


def test_only_the_files_go(store: Store, tmp_path: Path) -> None:
    assert store.forget(Filter(until_s=250.0), files_only=True) == Forgotten(0, 1)
    assert store.count() == 3 and files(tmp_path) == {ROAD}


def test_sqlite_keeps_no_trace(store: Store, tmp_path: Path) -> None:
    if not (tmp_path / "journal.db").exists():
        pytest.skip("PostgreSQL keeps deleted rows until its vacuum")
    before = b"".join(path.read_bytes() for path in tmp_path.glob("journal.db*"))
    assert SECRET.encode() in before
    store.forget(Filter(caller=SECRET))
    after = b"".join(path.read_bytes() for path in tmp_path.glob("journal.db*"))
    assert SECRET.encode() not in after
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_files_expire_unless_a_person_labelled_their_entry(store: Store, tmp_path: Path) -> None:
    store.commit(
        [
            entry("c", created_at_s=150.0, media=b"\xff\xd8\xff old"),
            entry("d", created_at_s=900.0, media=b"\xff\xd8\xff new"),
        ]
    )
    assert store.expire_media(500.0) == 1
    assert files(tmp_path) == {FACE, ROAD, b"\xff\xd8\xff new"}
    assert store.count() == 5 and store.expire_media(500.0) == 0


def test_a_journal_without_files_has_none_to_expire(opened: Callable[..., Store]) -> None:
    assert opened().expire_media(1e12) == 0
