"""Backups of an SQLite journal, and their restoration, also when they are killed."""

import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.backup import back_up, restore, verify
from roadwork_serve.journal.store import Store
from tests.journal.made import entry
from tests.journal.test_migrations import OLD_JOURNAL
from tests.tmpfs import small_disk

PHOTO = b"\xff\xd8\xff photo"


def write(file: Path, *names: str) -> None:
    with closing(Store.open(f"sqlite:///{file}", media_folder=file.parent / "media")) as store:
        store.commit([entry(name, media=PHOTO + name.encode()) for name in names])


def entries_in(file: Path) -> list[str]:
    with closing(Store.open(f"sqlite:///{file}")) as store:
        return sorted(row.prediction.id for row in store.find())


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    file = tmp_path / "journal" / "journal.db"
    write(file, "a", "b")
    return file


def test_a_backup_while_the_journal_is_written_to_is_consistent(journal: Path, tmp_path: Path) -> None:
    done, written = threading.Event(), []

    def work() -> None:
        with closing(Store.open(f"sqlite:///{journal}")) as store:
            while not done.is_set():
                name = f"{len(written):05d}"
                store.commit([entry(f"{name}-1"), entry(f"{name}-2")])
                written.append(name)

    writer = threading.Thread(target=work)
    writer.start()
    for number in range(5):
        before = len(written)
        copied = back_up(journal, tmp_path / f"{number}.db")
        assert copied.entries is not None and copied.entries >= 2 + 2 * before and copied.entries % 2 == 0
    done.set()
    writer.join()
    assert [path.name for path in tmp_path.glob("4.db*")] == ["4.db"], "it is one file"
    assert (tmp_path / "4.db").stat().st_mode & 0o777 == 0o600
    assert len(entries_in(tmp_path / "4.db")) == copied.entries


def test_a_folder_has_the_photos_and_is_restored_with_them(journal: Path, tmp_path: Path) -> None:
    copied = back_up(journal, tmp_path / "out", journal.parent / "media")
    assert (copied.entries, copied.media_files) == (2, 2)
    shutil.rmtree(journal.parent)
    assert restore(tmp_path / "out", journal, journal.parent / "media") == copied
    with closing(Store.open(f"sqlite:///{journal}", media_folder=journal.parent / "media")) as store:
        assert [store.read_media(row) for row in store.find()] == [PHOTO + b"a", PHOTO + b"b"]
    assert {path.stat().st_mode & 0o077 for path in journal.parent.rglob("*")} == {0}


def test_nothing_is_overwritten_unasked(journal: Path, tmp_path: Path) -> None:
    back_up(journal, tmp_path / "out.db")
    with pytest.raises(ConfigError, match="already exists; name a new file"):
        back_up(journal, tmp_path / "out.db")
    write(journal, "c")
    with pytest.raises(ConfigError, match=r"has entries \(3\); pass --replace"):
        restore(tmp_path / "out.db", journal, journal.parent / "media")
    assert entries_in(journal) == ["a", "b", "c"]
    restore(tmp_path / "out.db", journal, journal.parent / "media", replace=True)
    assert entries_in(journal) == ["a", "b"]


def test_a_journal_in_use_is_not_replaced(journal: Path, tmp_path: Path) -> None:
    back_up(journal, tmp_path / "out.db")
    with closing(Store.open(f"sqlite:///{journal}")) as store:
        store.count()
        with pytest.raises(ConfigError, match=r"in use.*stop the server"):
            restore(tmp_path / "out.db", journal, journal.parent / "media", replace=True)
        store.commit([entry("c")])
    assert entries_in(journal) == ["a", "b", "c"]


def test_entries_that_only_the_log_of_the_old_journal_has_do_not_reach_the_new_one(
    journal: Path, tmp_path: Path
) -> None:
    back_up(journal, tmp_path / "out.db")
    killed = f"""
        import os
        from roadwork_serve.journal.store import Store
        from tests.journal.made import entry
        Store.open("sqlite:///{journal}").commit([entry("c")])
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(killed)])
    assert journal.with_name("journal.db-wal").stat().st_size > 0
    restore(tmp_path / "out.db", journal, journal.parent / "media", replace=True)
    assert entries_in(journal) == ["a", "b"]


def test_a_damaged_backup_changes_nothing(journal: Path, tmp_path: Path) -> None:
    write(journal, *(f"{number}" for number in range(200)))
    back_up(journal, tmp_path / "out.db")
    data = bytearray((tmp_path / "out.db").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = b"\xff" * 20_000
    (tmp_path / "out.db").write_bytes(data)
    with pytest.raises(ConfigError, match=r"damaged|malformed"):
        restore(tmp_path / "out.db", journal, journal.parent / "media", replace=True)
    (tmp_path / "out.db").write_text("no database")
    with pytest.raises(ConfigError, match="file is not a database"):
        restore(tmp_path / "out.db", journal, journal.parent / "media", replace=True)
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE t (a)").connection.close()
    with pytest.raises(ConfigError, match="is no journal"):
        restore(tmp_path / "empty.db", journal, journal.parent / "media", replace=True)
    assert len(entries_in(journal)) == 202


def test_a_damaged_journal_is_replaced_if_asked(journal: Path, tmp_path: Path) -> None:
    back_up(journal, tmp_path / "out.db")
    journal.write_text("damage " * 1000)
    with pytest.raises(ConfigError, match=r"cannot be read.*pass --replace"):
        restore(tmp_path / "out.db", journal, journal.parent / "media")
    restore(tmp_path / "out.db", journal, journal.parent / "media", replace=True)
    assert entries_in(journal) == ["a", "b"]


def test_a_backup_of_an_earlier_version_is_migrated(journal: Path, tmp_path: Path) -> None:
    assert back_up(OLD_JOURNAL, tmp_path / "old.db").entries is None
    restore(tmp_path / "old.db", journal, journal.parent / "media", replace=True)
    assert entries_in(journal)


def test_a_backup_of_a_later_version_is_refused(journal: Path, tmp_path: Path) -> None:
    back_up(journal, tmp_path / "out.db")
    with closing(sqlite3.connect(tmp_path / "out.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="a later version wrote this journal"):
        restore(tmp_path / "out.db", journal, journal.parent / "media", replace=True)


def test_a_full_disk_leaves_no_backup(journal: Path, tmp_path: Path) -> None:
    write(journal, *(f"{number}" for number in range(500)))
    with small_disk(tmp_path / "disk", 64) as disk:
        with pytest.raises(ConfigError, match=f"nothing was written: ENOSPC No space left on device: {disk}"):
            back_up(journal, disk / "out.db")
        assert list(disk.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from roadwork_serve.journal.backup import back_up, restore
print(flush=True)
if sys.argv[1] == "back_up":
    back_up(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[2]).parent / "media")
else:
    restore(Path(sys.argv[3]), Path(sys.argv[2]), Path(sys.argv[2]).parent / "media", replace=True)
"""


def kill_after(wait_s: float, *words: object) -> float | None:
    """Run KILLED, and kill it some time after its work begins. Returns its time in seconds if it had ended before."""
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started_s = time.monotonic()
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        took_s = time.monotonic() - started_s
    assert process.returncode == 0
    return took_s


def test_killed_at_any_moment_a_backup_is_whole_or_not_there(journal: Path, tmp_path: Path) -> None:
    write(journal, *(f"{number}" for number in range(100)))
    whole_s, chance, killed = kill_after(60, "back_up", journal, tmp_path / "first"), random.Random(7), 0
    assert whole_s is not None
    for number in range(6):
        out = tmp_path / f"out-{number}"
        killed += kill_after(chance.uniform(0, whole_s), "back_up", journal, out) is None
        if out.exists():
            assert verify(out / "journal.db", "integrity_check") == 102
            assert len(list((out / "media").glob("??/*"))) == 102
        assert len(entries_in(journal)) == 102
    assert killed > 2


def test_killed_at_any_moment_a_restoration_leaves_the_old_journal_or_the_new_one(
    journal: Path, tmp_path: Path
) -> None:
    new = tmp_path / "other" / "journal.db"
    write(new, *(f"new-{number}" for number in range(100)))
    back_up(new, tmp_path / "backup", new.parent / "media")
    back_up(journal, tmp_path / "old.db")
    whole_s, chance, counts = kill_after(60, "restore", journal, tmp_path / "backup"), random.Random(7), set[int]()
    assert whole_s is not None
    for _ in range(6):
        restore(tmp_path / "old.db", journal, journal.parent / "media", replace=True)
        write(journal, "c")
        shutil.rmtree(journal.parent / "media")
        kill_after(chance.uniform(0, whole_s), "restore", journal, tmp_path / "backup")
        assert verify(journal, "integrity_check") in (3, 100)
        counts.add(len(entries_in(journal)))
    assert 3 in counts and counts <= {3, 100}
