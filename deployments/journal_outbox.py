"""The outbox of the journal: records of an ingress replica, on disk until the journal has acknowledged them."""

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import os
import time
from dataclasses import replace
from pathlib import Path

from ray.serve.handle import DeploymentHandle

from roadwork_serve.api.observers import VerdictEvent, VerdictObserver
from roadwork_serve.cascade.router import RoutedVerdict
from roadwork_serve.journal.coding import encode
from roadwork_serve.journal.media_files import has_room
from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.journal.spool import Spool
from roadwork_serve.journal.storage_error import StorageError
from roadwork_serve.profiles.journal import JournalSpec
from roadwork_serve.schema import JournalLoad, StageReport, Verdict

_LOG = logging.getLogger("ray.serve.roadwork.journal_outbox")
_GATHER_S = 0.2  # records that arrive within this time are sent together
_MANY, _GATHER_MANY_S = 4, 0.8  # so many by then wait longer: each call and each commit has its price
_MAX_RECORDS, _MAX_CALL_BYTES = 256, 8 * 2**20  # of one call
_COMMIT_TIMEOUT_S = 60.0
_RETRY_S, _MAX_RETRY_S = 0.5, 10.0  # delay after a failed call, doubling
_ORPHANS_INTERVAL_S = 10.0
_FLUSH_S = 2.0  # for pending records when the replica ends; another replica sends the rest
_HASH_INLINE = 512 * 1024  # bytes; more are hashed in a thread


class NullOutbox(VerdictObserver):
    """The outbox of a server without a journal."""

    tasks: tuple[asyncio.Task[None], ...] = ()

    def load(self) -> JournalLoad | None:
        """Return None: there is no journal."""
        return None

    async def aclose(self) -> None:
        """Do nothing."""


class JournalOutbox(VerdictObserver):
    """A spool on the local disk, and a task that empties it into the journal. Needs a running event loop.

    A record is in the spool before its verdict is returned, so it survives the process. It is sent until the journal
    acknowledges it, and the journal stores each record once.

    Args:
        spec: Configuration of the journal.
        journal: The journal's deployment.
        name: Id of this replica.
    """

    def __init__(self, spec: JournalSpec, journal: DeploymentHandle, name: str) -> None:
        self._journal = journal
        self._media = spec.max_media_gib > 0
        self._max_spool_bytes = spec.max_spool_mib * 2**20
        self._folder = Path(spec.spool_folder)
        self._spool = Spool(self._folder / f"{name}-{os.getpid()}", self._max_spool_bytes)
        self._wake = asyncio.Event()
        self._commit_error: StorageError | None = None
        self._dropped = 0  # by this process
        self.committed = 0
        self.without_media = 0
        self._context = contextvars.copy_context()  # calls belong to no request, see RayStageClient
        self._sending = asyncio.create_task(self._send(), name="journal outbox")
        self.tasks = (self._sending,)

    async def on_verdict(self, event: VerdictEvent) -> None:
        """Write a record of the verdict to the spool."""
        verdict, data = event.verdict, event.data
        record = PredictionRecord(
            id=verdict.answer_id,
            created_at_s=time.time(),
            verdict=verdict,
            origin=event.context.origin,
            caller=event.context.caller,
            key=event.context.key or "",
            policy_revision=event.policy_revision,
            sha256=await _digest(data),
            size=len(data),
            filename=event.context.filename,
            media=data if self._media else None,
            features=event.routed.features,
            features_model=_features_model(event.routed),
            audit_rate=verdict.audit_rate,
        )
        crowded = self._spool.pending_bytes + len(data) > self._max_spool_bytes // 2
        if record.media is not None and (crowded or not has_room(self._folder, len(data))):
            self.without_media += 1  # verdicts matter more than files
            record = replace(record, media=None)
        self._append(encode(record))

    def on_audit(self, verdict: Verdict, reports: tuple[StageReport, ...]) -> None:
        """Write the reports of an audit to the spool."""
        self._append(encode(DeferredResult(verdict.answer_id, time.time(), "audit", stages=reports)))

    def on_shadow(self, verdict: Verdict, shadow: Verdict) -> None:
        """Write the verdict of the shadow policy to the spool."""
        self._append(encode(DeferredResult(verdict.answer_id, time.time(), "shadow", verdict=shadow)))

    def load(self) -> JournalLoad:
        """Return the state of the outbox."""
        error = self._spool.error or self._commit_error
        return JournalLoad(
            up=error is None,
            error=None if error is None else error.text,
            error_code=None if error is None else error.code,
            pending=self._spool.pending,
            pending_bytes=self._spool.pending_bytes,
            committed=self.committed,
            dropped=self._spool.dropped,
            without_media=self.without_media,
        )

    async def aclose(self) -> None:
        """Send what can be sent quickly. The rest stays in the spool, for the next replica on this machine."""
        self._sending.cancel()
        await asyncio.wait([self._sending])
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_FLUSH_S):
                while await self._send_some():
                    pass
        self._spool.close()

    def _append(self, record: bytes) -> None:
        if not self._spool.append(record):
            self._dropped += 1
            if self._dropped.bit_count() == 1 and (error := self._spool.error) is not None:  # 1, 2, 4, 8 ... of them
                _LOG.error("%d records of the journal have been dropped: %s", self._dropped, error.text)
        self._wake.set()

    async def _send(self) -> None:
        wait_s, orphans_s = _RETRY_S, 0.0
        while True:
            try:
                if time.monotonic() >= orphans_s:
                    orphans_s = time.monotonic() + _ORPHANS_INTERVAL_S
                    if adopted := await asyncio.to_thread(self._spool.adopt_orphans):
                        _LOG.info("Adopted %d records of a process that has ended.", adopted)
                    self._spool.recheck()
                while await self._send_some():
                    wait_s = _RETRY_S
            except Exception as error:
                found = _cause(error)
                if self._commit_error is None:
                    _LOG.warning("The journal accepts no records; they are buffered on disk: %s", found.text)
                self._commit_error = found
                await asyncio.sleep(wait_s)
                wait_s = min(_MAX_RETRY_S, 2 * wait_s)
                continue
            self._commit_error = None
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ORPHANS_INTERVAL_S):
                    await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            if self._spool.pending >= _MANY:
                await asyncio.sleep(_GATHER_MANY_S)

    async def _send_some(self) -> int:
        """Send the oldest records. Return their number, 0 if there are none."""
        records = self._spool.peek(_MAX_RECORDS, _MAX_CALL_BYTES)
        if records:
            response = self._context.copy().run(self._journal.commit.remote, records)
            try:
                async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                    await response
            except BaseException:
                response.cancel()
                raise
            self._spool.acknowledge(len(records))
            self.committed += len(records)
        return len(records)


def _cause(error: Exception) -> StorageError:
    """Return why the journal rejected records, in one line."""
    cause = getattr(error, "cause", error)  # Ray wraps the error of another process
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return StorageError(getattr(cause, "code", None), lines[0])


async def _digest(data: bytes) -> str:
    """Return the SHA-256 of a file in hex; a large one does not block the loop."""
    if len(data) <= _HASH_INLINE:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())


def _features_model(routed: RoutedVerdict) -> str:
    """Return the name of the backbone that computed the features; empty without features."""
    if routed.features is None:
        return ""
    return next((report.model or "" for report in routed.verdict.stages if report.stage == "backbone"), "")
