"""The journal's outbox of an ingress replica, over a handle without Ray."""

import asyncio
import errno
import os
import pickle
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from deployments import journal_outbox as module
from deployments.journal_outbox import JournalOutbox, NullOutbox
from deployments.journal_replica import JournalReplica, open_store
from roadwork_serve.api.observers import VerdictEvent
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.cascade.router import RoutedVerdict
from roadwork_serve.errors import JournalDown
from roadwork_serve.journal import media_files
from roadwork_serve.journal.record import PredictionRecord
from roadwork_serve.journal.spool import Spool
from roadwork_serve.journal.store import RejectedRecords, Store
from roadwork_serve.profiles.flops import verdict_costs
from roadwork_serve.profiles.journal import JournalSpec
from tests.deployments.fakes import FakeMethod, until
from tests.journal.made import entry, report, verdict
from tests.tmpfs import fill, small_disk

POLICY = load_policy("mini")
OPENING_S = 20.0  # to import Alembic and migrate a new database, where that is part of the wait
PHOTO = b"\xff\xd8\xff photo"


class FakeJournal:
    """A handle that commits its records, or raises. lost: number of commits whose response gets lost."""

    def __init__(self, replica: JournalReplica) -> None:
        self.replica, self.error, self.lost = replica, None, 0
        self.commit = FakeMethod(self._commit)
        self.calls = 0

    async def _commit(self, records: list[bytes]) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        written = await self.replica.commit(records)
        if self.lost:
            self.lost -= 1
            raise ConnectionError("it died before it could answer")
        return written


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GATHER_S", 0.0)
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    monkeypatch.setattr(module, "_MAX_RETRY_S", 0.0)


@pytest.fixture
def spec(tmp_path: Path) -> JournalSpec:
    return JournalSpec(
        url=f"sqlite:///{tmp_path / 'journal.db'}",
        spool_folder=str(tmp_path / "spool"),
        media_folder=str(tmp_path / "media"),
        max_spool_mib=1,
        max_media_gib=0,
    )


@pytest.fixture
async def journal(spec: JournalSpec) -> AsyncIterator[FakeJournal]:
    replica = JournalReplica(spec)
    yield FakeJournal(replica)
    replica.close()


@pytest.fixture
async def outbox(spec: JournalSpec, journal: FakeJournal) -> AsyncIterator[JournalOutbox]:
    outbox = JournalOutbox(spec, journal, "one")  # type: ignore[arg-type]
    yield outbox
    await outbox.aclose()


def judged(name: str, **fields: object) -> RoutedVerdict:
    return RoutedVerdict(verdict(name, **fields), np.ones((1, 4), np.float16))  # type: ignore[arg-type]


def event(routed: RoutedVerdict, data: bytes, context: RequestContext, revision: int) -> VerdictEvent:
    return VerdictEvent(routed, data, context, POLICY, revision, verdict_costs(routed.verdict, {}))


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def written(spec: JournalSpec) -> dict[str, PredictionRecord]:
    store = Store.open(spec.url)
    try:
        return {case.prediction.id: case.prediction for case in store.find()}
    finally:
        store.close()


async def test_a_verdict_reaches_the_journal_with_all_its_details(outbox: JournalOutbox, spec: JournalSpec) -> None:
    await outbox.on_verdict(event(judged("a", audit_rate=0.5), PHOTO, RequestContext("batch", "ann", "camera 7"), 3))
    outbox.on_audit(verdict("a"), (report("vlm", 0.2),))
    outbox.on_shadow(verdict("a"), verdict("a", 0.1))
    await until(lambda: outbox.committed == 3)
    entry = written(spec)["a"]
    assert (entry.origin, entry.caller, entry.key, entry.policy_revision) == ("batch", "ann", "camera 7", 3)
    assert (entry.features_model, entry.audit_rate, entry.size) == ("fake", 0.5, len(PHOTO))
    assert len(entry.sha256) == 64
    store = Store.open(spec.url)
    case = store.get("a")
    assert [each.stage for each in case.audit or ()] == ["vlm"] and len(case.shadows) == 1
    store.close()
    assert outbox.load() is not None and outbox.load().pending == 0


async def test_while_the_journal_is_down_requests_continue_and_no_record_is_lost(
    outbox: JournalOutbox, journal: FakeJournal, spec: JournalSpec
) -> None:
    journal.error = ConnectionError("it is gone")
    for number in range(20):
        await outbox.on_verdict(event(judged(f"{number}"), PHOTO, RequestContext(), 1))
    await until(lambda: journal.calls > 3)
    load = outbox.load()
    assert (load.up, load.pending, load.committed, load.dropped) == (False, 20, 0, 0)
    journal.error = None
    await until(lambda: outbox.committed == 20)
    assert (len(written(spec)), outbox.load().up) == (20, True)


async def test_an_unacknowledged_record_is_resent_and_stored_once(
    outbox: JournalOutbox, journal: FakeJournal, spec: JournalSpec
) -> None:
    journal.lost = 2
    await outbox.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
    await until(lambda: outbox.committed == 1)
    assert journal.calls == 3
    assert list(written(spec)) == ["a"]


async def test_records_left_by_a_replica_are_sent_by_another(
    outbox: JournalOutbox, journal: FakeJournal, spec: JournalSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.error = ConnectionError("it is gone")
    await outbox.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
    await outbox.aclose()
    journal.error = None
    other = JournalOutbox(spec, journal, "two")  # type: ignore[arg-type]
    await until(lambda: other.committed == 1)
    assert list(written(spec)) == ["a"]
    await other.aclose()


async def test_media_are_dropped_before_records(spec: JournalSpec, journal: FakeJournal) -> None:
    journal.error = ConnectionError("it is gone")
    outbox = JournalOutbox(spec.model_copy(update={"max_media_gib": 1.0}), journal, "one")  # type: ignore[arg-type]
    for number in range(30):
        await outbox.on_verdict(event(judged(f"{number}"), bytes(100_000), RequestContext(), 1))
    load = outbox.load()
    assert load.pending == 30 and load.dropped == 0
    assert 0 < load.without_media < 30
    await outbox.aclose()


async def test_on_a_nearly_full_disk_media_are_left_out(
    spec: JournalSpec, journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_files, "KEEP_FREE", 2**62)
    outbox = JournalOutbox(spec.model_copy(update={"max_media_gib": 1.0}), journal, "one")  # type: ignore[arg-type]
    await outbox.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
    await until(lambda: outbox.committed == 1)
    assert outbox.load().without_media == 1
    await outbox.aclose()


async def test_records_dropped_for_lack_of_space_are_counted(spec: JournalSpec, journal: FakeJournal) -> None:
    journal.error = ConnectionError("it is gone")
    outbox = JournalOutbox(spec, journal, "one")  # type: ignore[arg-type]
    big = RoutedVerdict(verdict("a"), np.ones((64, 1024), np.float16))
    for _ in range(12):
        await outbox.on_verdict(event(big, PHOTO, RequestContext(), 1))
    load = outbox.load()
    assert load.dropped > 0 and load.pending + load.dropped == 12
    await outbox.aclose()


async def test_a_damaged_record_is_set_apart_and_blocks_nothing(
    outbox: JournalOutbox, journal: FakeJournal, spec: JournalSpec, caplog: pytest.LogCaptureFixture
) -> None:
    outbox._append(b"\x01garbage")
    await outbox.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
    await until(lambda: outbox.committed == 2)
    assert list(written(spec)) == ["a"]
    assert "moved to the file of damaged ones" in caplog.text
    assert (Path(spec.spool_folder) / "damaged").read_bytes().endswith(b"\x01garbage")


async def test_a_record_that_the_database_rejects_blocks_no_other(
    outbox: JournalOutbox, spec: JournalSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Store.commit

    def commit(store: Store, records: list[PredictionRecord]) -> None:
        if any(record.id == "bad" for record in records):
            raise RejectedRecords("too long")
        really(store, records)

    monkeypatch.setattr(Store, "commit", commit)
    for name in ("a", "bad", "b"):
        await outbox.on_verdict(event(judged(name), PHOTO, RequestContext(), 1))
    await until(lambda: outbox.committed == 3)
    assert set(written(spec)) == {"a", "b"}
    assert b'"bad"' in (Path(spec.spool_folder) / "damaged").read_bytes()


async def test_an_unavailable_database_is_retried(
    outbox: JournalOutbox, journal: FakeJournal, spec: JournalSpec, tmp_path: Path
) -> None:
    (tmp_path / "journal.db").write_text("this is no database, and long enough to be seen to be none " * 20)
    await outbox.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
    await until(lambda: journal.calls > 1)
    assert outbox.load().pending == 1
    (tmp_path / "journal.db").unlink()
    await until(lambda: outbox.committed == 1)
    assert list(written(spec)) == ["a"]


async def test_removed_while_everything_runs_the_folder_gets_every_later_record(
    outbox: JournalOutbox, spec: JournalSpec, tmp_path: Path
) -> None:
    await outbox.on_verdict(event(judged("old"), PHOTO, RequestContext(), 1))
    await until(lambda: outbox.committed == 1)
    clear(tmp_path)
    for number in range(5):
        await outbox.on_verdict(event(judged(f"{number}"), PHOTO, RequestContext(), 1))
    await until(lambda: outbox.committed == 6)
    assert set(written(spec)) == {"0", "1", "2", "3", "4"}
    assert (outbox.load().up, outbox.load().dropped) == (True, 0)


async def test_records_that_waited_in_a_removed_spool_are_counted_as_dropped(
    outbox: JournalOutbox, journal: FakeJournal, spec: JournalSpec
) -> None:
    journal.error = ConnectionError("it is gone")
    for number in range(3):
        await outbox.on_verdict(event(judged(f"{number}"), PHOTO, RequestContext(), 1))
    await until(lambda: journal.calls > 0)
    shutil.rmtree(spec.spool_folder)
    await outbox.on_verdict(event(judged("new"), PHOTO, RequestContext(), 1))
    await until(lambda: outbox.load().dropped == 3)
    journal.error = None
    await until(lambda: outbox.load().pending == 0)
    assert "new" in written(spec)


async def test_the_sender_survives_whatever_the_spool_raises(
    spec: JournalSpec, journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ORPHANS_INTERVAL_S", 0.0)
    calls: list[int] = []

    def adopt(spool: Spool) -> int:
        calls.append(1)
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "adopt_orphans", adopt)
        outbox = JournalOutbox(spec, journal, "one")  # type: ignore[arg-type]
        await outbox.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
        await until(lambda: len(calls) > 1)
        assert not outbox.tasks[0].done() and not outbox.load().up
    await until(lambda: outbox.committed == 1 and outbox.load().up)
    await outbox.aclose()


async def test_the_count_of_dropped_records_continues_after_a_restart(spec: JournalSpec, journal: FakeJournal) -> None:
    journal.error = ConnectionError("it is gone")
    outbox = JournalOutbox(spec, journal, "one")  # type: ignore[arg-type]
    big = RoutedVerdict(verdict("a"), np.ones((64, 1024), np.float16))
    for _ in range(12):
        await outbox.on_verdict(event(big, PHOTO, RequestContext(), 1))
    dropped = outbox.load().dropped
    await outbox.aclose()
    journal.error = None
    other = JournalOutbox(spec, journal, "two")  # type: ignore[arg-type]
    await until(lambda: other.load().dropped > 0 and other.load().pending == 0, OPENING_S)
    assert other.load().dropped == dropped
    await other.aclose()


@pytest.mark.parametrize("full", ["journal", "spool"])
async def test_a_full_disk_is_reported_as_one(spec: JournalSpec, tmp_path: Path, full: str) -> None:
    with small_disk(tmp_path / "disk", 512) as disk:
        place = (
            {"url": f"sqlite:///{disk / 'journal.db'}"} if full == "journal" else {"spool_folder": f"{disk / 'spool'}"}
        )
        spec = spec.model_copy(update=place)
        replica = JournalReplica(spec)
        outbox = JournalOutbox(spec, FakeJournal(replica), "one")  # type: ignore[arg-type]
        ballast = fill(disk)
        for number in range(40):
            await outbox.on_verdict(event(judged(f"{number}"), PHOTO, RequestContext(), 1))
        await until(lambda: not outbox.load().up)
        load = outbox.load()
        assert load.error_code == "ENOSPC"
        assert "ENOSPC No space left on device: " + str(disk) in (load.error or "")
        ballast.unlink()
        await outbox.on_verdict(event(judged("last"), PHOTO, RequestContext(), 1))
        await until(lambda: outbox.load().up and outbox.load().pending == 0, OPENING_S)
        assert outbox.load().error is None
        assert len(written(spec)) + outbox.load().dropped == 41
        await outbox.aclose()
        replica.close()


async def test_an_error_of_another_process_is_shown_in_one_line(outbox: JournalOutbox, journal: FakeJournal) -> None:
    text = "the journal cannot be used: ENOSPC No space left on device: /data/journal.db"
    journal.error = RayTaskError("commit", "Traceback\n of another process", JournalDown(text, "ENOSPC"))
    await outbox.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
    await until(lambda: not outbox.load().up)
    assert (outbox.load().error, outbox.load().error_code) == (text, "ENOSPC")
    assert pickle.loads(pickle.dumps(JournalDown(text, "ENOSPC"))).code == "ENOSPC"


async def test_old_files_are_deleted_without_traffic(spec: JournalSpec, tmp_path: Path) -> None:
    spec = spec.model_copy(update={"max_media_gib": 1.0, "media_days": 30.0})
    with closing(open_store(spec)) as store:
        now = time.time()
        store.commit(
            [
                entry("old", created_at_s=now - 31 * 86_400, media=PHOTO + b"old"),
                entry("new", created_at_s=now, media=PHOTO),
            ]
        )
    for days, left in ((None, 2), (30.0, 1)):
        replica = JournalReplica(spec.model_copy(update={"media_days": days}))
        await replica.check_health()
        replica.close()
        assert len([path for path in (tmp_path / "media").rglob("*") if path.is_file()]) == left


def test_the_replica_creates_private_files(spec: JournalSpec) -> None:
    replica = JournalReplica(spec)
    replica.close()
    assert os.umask(0o077) == 0o077


async def test_without_a_journal_nothing_is_stored() -> None:
    nothing = NullOutbox()
    await nothing.on_verdict(event(judged("a"), PHOTO, RequestContext(), 1))
    assert nothing.load() is None and asyncio.all_tasks() == {asyncio.current_task()}
