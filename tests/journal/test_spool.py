import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roadwork_serve.journal import spool as module
from roadwork_serve.journal.drop_counter import read_dropped
from roadwork_serve.journal.spool import Spool
from tests.tmpfs import fill, small_disk

ROOM = 10**9


def all_of(spool: Spool) -> list[bytes]:
    return spool.peek(10**6, ROOM)


def test_records_are_returned_in_order_until_acknowledged(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", ROOM)
    records = [f"record {number}".encode() for number in range(5)]
    assert all(spool.append(record) for record in records)
    assert spool.peek(3, ROOM) == records[:3] == spool.peek(3, ROOM)
    spool.acknowledge(3)
    assert all_of(spool) == records[3:]
    assert (spool.pending, spool.pending_bytes) == (2, 16)
    spool.acknowledge(2)
    assert (all_of(spool), spool.pending, spool.pending_bytes) == ([], 0, 0)


def test_a_batch_is_limited_in_bytes_but_has_at_least_one_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", ROOM)
    for size in (10, 10, 500):
        spool.append(bytes(size))
    assert [len(record) for record in spool.peek(9, 25)] == [10, 10]
    spool.acknowledge(2)
    assert [len(record) for record in spool.peek(9, 25)] == [500]


def test_records_beyond_the_capacity_are_dropped_and_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", 100)
    assert [spool.append(bytes(40)) for _ in range(4)] == [True, True, False, False]
    assert (spool.dropped, spool.pending) == (2, 2)
    spool.acknowledge(1)
    assert spool.append(bytes(40))


def test_pending_records_survive_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", ROOM)
    for number in range(4):
        spool.append(bytes([number]))
    spool.acknowledge(2)
    spool.close()
    again = Spool(tmp_path / "one", ROOM)
    assert all_of(again) == [b"\2", b"\3"]
    again.append(b"\4")
    assert all_of(again) == [b"\2", b"\3", b"\4"]


def test_an_empty_spool_leaves_no_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", ROOM)
    spool.append(b"x")
    spool.acknowledge(1)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_finished_segments_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEGMENT", 100)
    spool = Spool(tmp_path / "one", ROOM)
    for _ in range(20):
        spool.append(bytes(60))
        spool.acknowledge(1)
    assert len(list((tmp_path / "one").glob("*.segment"))) <= 2


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    Spool(tmp_path / "one", ROOM).append(b"x")
    owner = Spool(tmp_path / "two", ROOM)
    with pytest.raises(FileExistsError, match="belongs to a running process"):
        Spool(tmp_path / "two", ROOM)
    assert owner.append(b"y")


def test_a_full_disk_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "one", ROOM)
    spool.append(b"before")
    really, room = os.write, [5]

    def write(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(descriptor, data[: room.pop()])

    monkeypatch.setattr(os, "write", write)
    assert not spool.append(b"too much")
    assert spool.error is not None and spool.error.text == f"ENOSPC No space left on device: {tmp_path / 'one'}"
    monkeypatch.setattr(os, "write", really)
    assert spool.append(b"after")
    assert (all_of(spool), spool.dropped) == ([b"before", b"after"], 1)
    spool.close()
    assert all_of(Spool(tmp_path / "one", ROOM)) == [b"before", b"after"]


def test_a_spool_that_was_removed_is_made_anew_and_its_records_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "one"
    spool = Spool(folder, ROOM)
    for _ in range(3):
        spool.append(b"lost")
    shutil.rmtree(tmp_path / "spool")
    assert spool.append(b"kept")
    assert (all_of(spool), spool.pending, spool.pending_bytes, spool.dropped) == ([b"kept"], 1, 4, 3)
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert Spool(tmp_path / "spool" / "two", ROOM).adopt_orphans() == 0, "the new folder has its owner's lock"
    spool.close()
    assert all_of(Spool(folder, ROOM)) == [b"kept"]


def test_records_of_a_removed_spool_that_arrive_yet_are_not_counted_as_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", ROOM)
    spool.append(b"sent")
    spool.append(b"lost")
    assert spool.peek(1, ROOM) == [b"sent"]
    shutil.rmtree(tmp_path / "one")
    spool.append(b"kept")
    spool.acknowledge(1)
    assert (all_of(spool), spool.dropped) == ([b"kept"], 1)
    spool.acknowledge(1)
    assert (all_of(spool), spool.pending, spool.pending_bytes) == ([], 0, 0)


def test_a_folder_beside_the_spool_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "photo.jpg").touch()
    assert Spool(tmp_path / "one", ROOM).adopt_orphans() == 0
    assert (tmp_path / "media" / "photo.jpg").exists()


def test_a_missing_folder_of_spools_and_an_unreadable_orphan_raise_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "spool" / "one", ROOM)
    shutil.rmtree(tmp_path / "spool")
    assert spool.adopt_orphans() == 0
    left = Spool(tmp_path / "spool" / "left", ROOM)
    left.append(b"x")
    left.close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "frames", lambda path: open(path / "no folder"))
        assert spool.adopt_orphans() == 0
    assert f"{tmp_path / 'spool' / 'left'} cannot be adopted" in caplog.text
    assert spool.adopt_orphans() == 1, "and it is tried again"


def test_the_count_of_lost_records_survives_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", 10)
    assert [spool.append(bytes(8)) for _ in range(4)] == [True, False, False, False]
    assert spool.error is not None and "max_spool_mib" in spool.error.text
    spool.acknowledge(1)
    spool.close()
    second = Spool(tmp_path / "two", 10)
    second.adopt_orphans()
    assert (second.dropped, (tmp_path / "one").exists()) == (3, False)
    second.append(bytes(20))
    second.close()
    third = Spool(tmp_path / "three", 10)
    third.adopt_orphans()
    third.adopt_orphans()
    assert third.dropped == 4
    third.close()
    assert Spool(tmp_path / "three", 10).dropped == 4


DROPPER = """
import sys
from pathlib import Path
from roadwork_serve.journal.spool import Spool
spool = Spool(Path(sys.argv[1]), 1)
while True:
    spool.append(b"too much")
    print(spool.dropped, flush=True)
"""


def test_the_count_of_lost_records_survives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DROPPER, str(tmp_path / "victim")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dropper:
        assert dropper.stdout is not None
        while int(dropper.stdout.readline()) < 50:
            pass
        dropper.send_signal(signal.SIGKILL)
        last = max([50, *map(int, dropper.stdout.read().split())])
    spool = Spool(tmp_path / "one", ROOM)
    spool.adopt_orphans()
    assert last <= spool.dropped <= last + 1


def test_on_a_full_disk_records_are_dropped_counted_and_the_disk_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        spool = Spool(disk / "spool" / "one", ROOM)
        spool.append(b"before")
        ballast = fill(disk)
        kept = sum(spool.append(bytes(4096)) for _ in range(3))
        assert spool.error is not None and spool.error.code == "ENOSPC"
        assert spool.error.text == f"ENOSPC No space left on device: {disk / 'spool' / 'one'}"
        assert spool.dropped == 3 - kept > 0 == spool.dropped - read_dropped(disk / "spool" / "one")
        spool.recheck()
        assert spool.error is not None, "it is still full"
        ballast.unlink()
        spool.recheck()
        assert spool.error is None
        assert spool.append(b"after")
        assert all_of(spool)[:: kept + 1] == [b"before", b"after"]
        spool.close()


def test_a_spool_that_cannot_be_made_at_the_start_is_made_later(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file in the folder's place")
    spool = Spool(tmp_path / "spool" / "one", ROOM)
    assert not spool.append(b"lost")
    assert spool.error is not None and spool.error.code == "ENOTDIR"
    (tmp_path / "spool").unlink()
    assert spool.append(b"kept")
    assert (all_of(spool), spool.dropped, spool.error) == ([b"kept"], 1, None)


WRITER = """
import sys
from pathlib import Path
from roadwork_serve.journal.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**9)
number = 0
while True:
    spool.append(number.to_bytes(4, "big") * 50)
    print(number, flush=True)
    number += 1
"""


def test_records_confirmed_by_a_killed_process_are_adopted_once(tmp_path: Path) -> None:
    confirmed = -1
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "victim")], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        while confirmed < 2000:
            confirmed = int(writer.stdout.readline())
        first, second = Spool(tmp_path / "first", ROOM), Spool(tmp_path / "second", ROOM)
        assert first.adopt_orphans() == 0, "it runs"
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
    confirmed = int(rest[-1]) if rest else confirmed
    first.append(b"own")
    found = first.adopt_orphans()
    assert found > confirmed
    assert second.adopt_orphans() == 0, "it belongs to the first now"
    records = all_of(first)
    assert records == [b"own"] + [number.to_bytes(4, "big") * 50 for number in range(found)]
    first.append(b"later")
    first.acknowledge(found + 1)
    assert all_of(first) == [b"later"]
    assert not (tmp_path / "victim").exists()


def test_damage_in_the_middle_ends_a_segment_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one", ROOM)
    for number in range(3):
        spool.append(bytes([number]) * 10)
    spool.close()
    (segment,) = (tmp_path / "one").glob("*.segment")
    data = bytearray(segment.read_bytes())
    data[25] ^= 1
    segment.write_bytes(data)
    assert all_of(Spool(tmp_path / "one", ROOM)) == [bytes(10)]


class Crashes(RuleBasedStateMachine):
    """Appends, acknowledgements and crashes in any order.

    Every confirmed record is returned, in order, and none twice except those acknowledged just before a crash.
    """

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = Path(tempfile.mkdtemp())
        self.number = 0
        self.model: list[bytes] = []
        module._SEGMENT = 64
        self.spool = Spool(self.folder / "0", ROOM)

    @rule(size=st.integers(0, 90))
    def append(self, size: int) -> None:
        record = self.number.to_bytes(4, "big") + bytes(size)
        self.number += 1
        assert self.spool.append(record)
        self.model.append(record)

    @rule(count=st.integers(0, 5))
    def acknowledge(self, count: int) -> None:
        count = min(count, len(self.model))
        self.spool.acknowledge(count)
        del self.model[:count]

    @rule(cut=st.integers(0, 7))
    def dies_writing(self, cut: int) -> None:
        """End the process; a frame may be partly written."""
        folder = self.spool._folder
        if self.spool._writing is not None:
            with self.spool._writing[0].open("ab") as file:
                file.write(bytes([0, 0, 0, 9, 1, 2, 3])[:cut])
        self._die()
        self.spool = Spool(folder, ROOM)
        self.spool.adopt_orphans()

    @rule()
    def moves_on(self) -> None:
        """Let another process, with records of its own, adopt the spool."""
        self._die()
        self.spool = Spool(self.folder / str(self.number + 1000), ROOM)
        self.spool.adopt_orphans()

    def _die(self) -> None:
        """Close the open files of the process, as the kernel does."""
        self.spool._dropped.close()
        for lock in (self.spool._lock, *(lock for _, lock in self.spool._adopted)):
            os.close(lock)  # type: ignore[arg-type]

    @invariant()
    def nothing_is_lost(self) -> None:
        assert sorted(all_of(self.spool)) == sorted(self.model)
        assert self.spool.pending_bytes == sum(map(len, self.model))

    @invariant()
    def order_is_kept(self) -> None:
        self.model = all_of(self.spool)

    def teardown(self) -> None:
        module._SEGMENT = 8 * 2**20


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
