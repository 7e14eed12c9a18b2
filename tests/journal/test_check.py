"""The check of a journal finds each kind of damage, and changes nothing."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from roadwork_serve.journal.check import check_journal
from roadwork_serve.journal.record import Annotation
from roadwork_serve.journal.spool import Spool
from roadwork_serve.journal.store import Store
from tests.journal.made import audit, entry
from tests.journal.test_migrations import OLD_JOURNAL

PHOTO = b"\xff\xd8\xff photo"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "journal.db"
    with closing(Store.open(f"sqlite:///{file}", media_folder=tmp_path / "media")) as store:
        store.commit([entry("a", media=PHOTO), *(entry(f"{number}") for number in range(200)), audit("a")])
        store.annotate([("a", Annotation("none", "ann", 1.0))])
    return file


def problems(file: Path) -> list[str]:
    return check_journal(f"sqlite:///{file}", None, file.parent / "media", file.parent / "spool").problems


def test_a_sound_journal_has_no_problem_and_is_not_changed(file: Path) -> None:
    before = file.read_bytes()
    found = check_journal(f"sqlite:///{file}", None, file.parent / "media", file.parent / "spool", full=True)
    assert (found.entries, found.deferred_results, found.annotations) == (201, 1, 1)
    assert (found.media_rows, found.media_files, found.problems) == (1, 1, [])
    assert file.read_bytes() == before


def test_one_that_is_being_written_to_is_checked(file: Path) -> None:
    with closing(Store.open(f"sqlite:///{file}")) as store:
        store.commit([entry("new")])
        assert check_journal(f"sqlite:///{file}", None, None, None).entries == 202


@pytest.mark.parametrize("start", [0, 4096 * 3, 4096 * 20])
def test_damage_is_found(file: Path, start: int) -> None:
    data = bytearray(file.read_bytes())
    data[start : start + 4096] = b"\xff" * 4096
    file.write_bytes(data)
    assert any("database is damaged" in each or "database cannot be read" in each for each in problems(file))


def test_missing_and_superfluous_media_files_are_named(file: Path) -> None:
    (photo,) = (file.parent / "media").glob("??/*")
    moved = photo.with_name("f" * 64 + ".jpg")
    photo.rename(moved)
    (moved.parent / ".draft.jpg").touch()
    assert [each.split(",")[0] for each in problems(file)] == [f"1 media files are missing in {file.parent / 'media'}"]
    os.utime(moved, (1, 1))
    (missing, extra) = problems(file)
    assert photo.name in missing and moved.name in extra and "they may be deleted" in extra


def test_labels_of_no_entry_are_found(file: Path) -> None:
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM predictions WHERE id = 'a'"))
    engine.dispose()
    assert "1 labels belong to no entry" in problems(file)[0]


def test_records_that_wait_or_were_lost_are_counted_and_stay(file: Path) -> None:
    spool = Spool(file.parent / "spool" / "one", 100)
    assert [spool.append(bytes(40)) for _ in range(4)] == [True, True, False, False]
    for _ in range(2):
        found = check_journal(f"sqlite:///{file}", None, None, file.parent / "spool")
        assert (found.waiting, found.dropped, found.problems) == (2, 2, [])
    assert spool.pending == 2
    (file.parent / "spool" / "damaged").write_bytes(bytes(8))
    assert "8 bytes of records that the journal could not store" in problems(file)[0]


def test_the_revision_of_the_tables_is_compared(file: Path, tmp_path: Path) -> None:
    old = check_journal(f"sqlite:///{OLD_JOURNAL}", None, None, None)
    assert (old.revision, old.entries, old.problems) == ("0002", None, [])
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    assert "a later version wrote this journal" in problems(file)[0]
    (tmp_path / "empty.db").touch()
    assert "has no tables" in problems(tmp_path / "empty.db")[0]


def test_postgresql_is_checked(url: str, tmp_path: Path) -> None:
    with closing(Store.open(url)) as store:
        store.commit([entry("a")])
    found = check_journal(url, None, tmp_path / "media", tmp_path / "spool")
    assert (found.entries, found.problems) == (1, [])
