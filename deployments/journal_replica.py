"""The journal as a Serve deployment: the only process that writes to the database."""

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ray import serve
from ray.serve import Application

from deployments.loopback import stay_on_loopback
from deployments.metrics import JournalMetrics
from deployments.priority import lower_priority
from deployments.replica_logs import configure_logs
from roadwork_serve.api.journal_reader import JournalReader
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import JournalDown, RoadworkError
from roadwork_serve.journal.coding import decode, encode
from roadwork_serve.journal.drift_monitor import REFERENCE, DriftMonitor
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.journal.segments import DAMAGED
from roadwork_serve.journal.store import RejectedRecords, Store
from roadwork_serve.profiles.journal import JournalSpec
from roadwork_serve.profiles.task import Task
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview
from roadwork_serve.state_folder import keep_private, make_folder

_LOG = logging.getLogger("ray.serve.roadwork.journal")
_MIN_REFERENCE = 500  # predictions, as the reference of drift
_DRIFT_INTERVAL_S = 5.0
_EXPIRY_INTERVAL_S = 600.0
_NICENESS = 10  # like stages: where cores are short, the ingress goes first
_CALLERS = 64  # concurrent calls; more are queued by Serve


T = TypeVar("T")


class JournalReplica:
    """Writes the records that ingress replicas send, and answers queries. The first record opens the database."""

    def __init__(self, spec: JournalSpec, task: Task | None = None) -> None:
        stay_on_loopback()
        keep_private()
        configure_logs()
        lower_priority(_NICENESS)
        self._spec = spec
        self._store: Store | None = None
        self._metrics = JournalMetrics()
        self._drift = DriftMonitor()
        self._drift_s = self._expiry_s = -math.inf
        self._queries = JournalReader(lambda: open_store(spec), task)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")  # SQLite allows one writer anyway

    async def commit(self, records: list[bytes]) -> int:
        """Write encoded records in one transaction and return their number. They are safe then.

        A record that cannot be decoded, or that the database rejects, is appended to the file `damaged` beside the
        spool and counts as written: it would be sent again for ever. Raises JournalDown while the database is
        unavailable; nothing is written then.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, records)

    async def recent(self, limit: int, where: Filter, cursor: str | None) -> JournalPage | RoadworkError:
        """See `JournalQueries`; an error is returned."""
        return await _as_value(self._queries.recent(limit, where, cursor))

    async def informative(self, limit: int, where: Filter, decision_threshold: float) -> JournalPage | RoadworkError:
        """See `JournalQueries`; an error is returned."""
        return await _as_value(self._queries.informative(limit, where, decision_threshold))

    async def media(self, answer_id: str) -> bytes | RoadworkError:
        """See `JournalQueries`; an error is returned."""
        return await _as_value(self._queries.media(answer_id))

    async def label(self, answer_id: str, label: HumanLabel, author: str) -> JournalEntry | RoadworkError:
        """See `JournalQueries`; an error is returned."""
        return await _as_value(self._queries.label(answer_id, label, author))

    async def withdraw_label(self, answer_id: str, author: str) -> JournalEntry | RoadworkError:
        """See `JournalQueries`; an error is returned."""
        return await _as_value(self._queries.withdraw_label(answer_id, author))

    async def preview(self, current: Policy, proposed: Policy, last: int) -> PolicyPreview | RoadworkError:
        """See `JournalQueries`; an error is returned."""
        return await _as_value(self._queries.preview(current, proposed, last))

    async def check_health(self) -> None:
        """Delete media files that are too old, now and then. Serve calls this regularly."""
        now = time.monotonic()
        if self._spec.media_days is None or not self._spec.max_media_gib or now < self._expiry_s + _EXPIRY_INTERVAL_S:
            return
        self._expiry_s = now
        self._writer.submit(self._expire, time.time() - 86_400 * self._spec.media_days)

    def close(self) -> None:
        """Close the database."""
        self._queries.close()
        self._writer.shutdown()
        if self._store is not None:
            self._store.close()

    def _expire(self, before_s: float) -> None:
        try:
            if self._store is None:
                self._store = open_store(self._spec)
                self._drift = _drift_monitor(self._store)
            if count := self._store.expire_media(before_s):
                _LOG.info("%d media files are older than journal.media_days and deleted.", count)
        except RoadworkError as error:
            _LOG.error("Old media files are not deleted: %s", error)

    def _commit(self, records: list[bytes]) -> int:
        sound: list[PredictionRecord | DeferredResult] = []
        for record in records:
            try:
                sound.append(decode(record))
            except ValueError as error:
                _LOG.error(
                    "A record of %d bytes cannot be decoded and is moved to the file of damaged ones: %s",
                    len(record),
                    error,
                )
                self._put_aside(record)
        if self._store is None:
            self._store = open_store(self._spec)
            self._drift = _drift_monitor(self._store)
        try:
            self._write(self._store, sound)
        except JournalDown:
            self._store.close()
            self._store = None  # the next call opens it again
            raise
        self._metrics.count_records(sound)
        for record in sound:
            if isinstance(record, PredictionRecord):
                self._drift.add(record)
        if (now := time.monotonic()) >= self._drift_s + _DRIFT_INTERVAL_S:
            self._drift_s = now
            self._metrics.report_drift(self._drift.values())
        return len(records)

    def _write(self, store: Store, records: list[PredictionRecord | DeferredResult]) -> None:
        """Write all at once; if one is rejected, one by one, so that it does not block the others."""
        try:
            store.commit(records)
            return
        except RejectedRecords as error:
            _LOG.error("One of %d records is rejected: %s", len(records), error)
        for record in records:
            try:
                store.commit([record])
            except RejectedRecords:
                self._put_aside(encode(record))

    def _put_aside(self, record: bytes) -> None:
        folder = Path(self._spec.spool_folder)
        make_folder(folder)
        with (folder / DAMAGED).open("ab") as file:
            file.write(len(record).to_bytes(8, "big") + record)
            file.flush()
            os.fsync(file.fileno())


def _drift_monitor(store: Store) -> DriftMonitor:
    """Return a monitor whose reference is the latest predictions, or, if they are few, the first to arrive."""
    if store.count() < _MIN_REFERENCE:
        return DriftMonitor()
    return DriftMonitor.with_reference(store.find(limit=REFERENCE, newest_first=True))


async def _as_value(result: Awaitable[T]) -> T | RoadworkError:
    """Return the result, or the error that it raises: Serve would wrap an error raised across a handle."""
    try:
        return await result
    except RoadworkError as error:
        return error


def open_store(spec: JournalSpec) -> Store:
    """Open the journal of a profile. Raises JournalDown while it is unavailable."""
    cap = int(spec.max_media_gib * 2**30)
    password = os.environ.get(spec.password_env, "") if spec.password_env else None
    return Store.open(
        spec.url, password=password, media_folder=Path(spec.media_folder) if cap else None, max_media_bytes=cap or None
    )


def journal_app(spec: JournalSpec, task: Task | None = None) -> Application:
    """Return the deployment. It has one replica: several would only wait for each other."""
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
    return deployed.bind(spec, task)
