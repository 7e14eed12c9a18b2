"""The journal as a Serve deployment: the one process that writes to the database."""

import asyncio
import logging
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.loopback import stay_on_loopback
from deployments.metrics import JournalMetrics
from deployments.stage_replica import give_way
from roadwork_serve.api.journal_reader import JournalReader
from roadwork_serve.errors import JournalDown
from roadwork_serve.journal.coding import decode, encode
from roadwork_serve.journal.drift_monitor import REFERENCE, DriftMonitor
from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.journal.store import RejectedRecords, Store
from roadwork_serve.profiles.journal import JournalSpec

_LOG = logging.getLogger("ray.serve.roadwork.journal")
_LEAST = 500  # answers, to compare those that come with
_TELL_EVERY_S = 5.0
_NICENESS = 10  # as stages have: where cores are short answers go first
_CALLERS = 64  # ingress replicas that send at the same time at most; more wait in Serve


class JournalReplica:
    """Writes down what ingress replicas send. The database is looked for when there is something to write."""

    def __init__(self, spec: JournalSpec) -> None:
        stay_on_loopback()
        give_way(_NICENESS)
        self._spec = spec
        self._store: Store | None = None
        self._metrics = JournalMetrics()
        self._drift = DriftMonitor()
        self._told_s = -math.inf
        self.archive = JournalReader(lambda: open_store(spec))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")  # SQLite takes one at a time anyway

    async def commit(self, records: list[bytes]) -> int:
        """Write encoded records, all in one transaction. Returns how many; they are safe then.

        What cannot be read, or is refused by the database, is put aside, in the file `damaged` beside the spool, and
        counts as written: it would come again for ever. Raises JournalDown while the database is away; nothing of it is
        written then.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, records)

    async def ask(self, question: str, *args: Any) -> object:
        """What a method of the `JournalReader` answers; an error of the tree comes as a value."""
        return await getattr(self.archive, question)(*args)

    def close(self) -> None:
        """Let go of the database."""
        self.archive.close()
        self._writer.shutdown()
        if self._store is not None:
            self._store.close()

    def _commit(self, records: list[bytes]) -> int:
        sound: list[PredictionRecord | DeferredResult] = []
        for record in records:
            try:
                sound.append(decode(record))
            except ValueError as error:
                _LOG.error("A record of %d bytes cannot be read and is put aside: %s", len(record), error)
                self._put_aside(record)
        if self._store is None:
            self._store = open_store(self._spec)
            self._drift = _gauge(self._store)
        try:
            self._write(self._store, sound)
        except JournalDown:
            self._store.close()
            self._store = None  # it is opened anew, with whatever has changed about it
            raise
        self._metrics.committed(sound)
        for record in sound:
            if isinstance(record, PredictionRecord):
                self._drift.add(record)
        if (now := time.monotonic()) >= self._told_s + _TELL_EVERY_S:
            self._told_s = now
            self._metrics.drifted(self._drift.numbers())
        return len(records)

    def _write(self, store: Store, records: list[PredictionRecord | DeferredResult]) -> None:
        """All at once; where one is refused one by one, so that it holds up no other."""
        try:
            store.commit(records)
            return
        except RejectedRecords as error:
            _LOG.error("One of %d records is refused: %s", len(records), error)
        for record in records:
            try:
                store.commit([record])
            except RejectedRecords:
                self._put_aside(encode(record))

    def _put_aside(self, record: bytes) -> None:
        folder = Path(self._spec.spool_folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "damaged").open("ab") as file:
            file.write(len(record).to_bytes(8, "big") + record)
        os.chmod(folder / "damaged", 0o600)


def _gauge(store: Store) -> DriftMonitor:
    """Against the last answers there are; where those are few, against the first that come."""
    if store.count() < _LEAST:
        return DriftMonitor()
    return DriftMonitor.against(store.find(limit=REFERENCE, newest_first=True))


def open_store(spec: JournalSpec) -> Store:
    """The journal that a profile names. Raises JournalDown while it cannot be reached."""
    cap = int(spec.media_cap_gib * 2**30)
    password = os.environ.get(spec.password_env, "") if spec.password_env else None
    return Store.open(
        spec.url, password=password, media_folder=Path(spec.media_folder) if cap else None, media_cap_bytes=cap or None
    )


def journal_app(spec: JournalSpec) -> Application:
    """The deployment. One replica: several would only wait for each other."""
    deployed = serve.deployment(
        name="Journal",
        num_replicas=1,
        ray_actor_options={"num_cpus": spec.num_cpus},
        max_ongoing_requests=_CALLERS,
        max_queued_requests=_CALLERS,
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    )(JournalReplica)
    return deployed.bind(spec)
