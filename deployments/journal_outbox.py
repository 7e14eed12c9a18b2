"""What an ingress replica sends to the journal, and keeps until the journal has it."""

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

from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.cascade.router import RoutedVerdict
from roadwork_serve.journal.coding import encode
from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.journal.spool import Spool
from roadwork_serve.profiles.journal import JournalSpec
from roadwork_serve.schema import JournalLoad, StageReport, Verdict

_LOG = logging.getLogger("ray.serve.roadwork.post")
_GATHER_S = 0.2  # what comes within it goes together
_MOST, _MOST_BYTES = 256, 8 * 2**20  # of one call
_COMMIT_S = 60.0  # that a call may take
_AGAIN_S, _LONGEST_S = 0.5, 10.0  # until the next try after a failed one, doubling
_ORPHANS_EVERY_S = 10.0
_LAST_S = 2.0  # for what is left when the replica ends; another one sends the rest
_HASH_INLINE = 512 * 1024  # bytes; more are hashed in a thread


class NullOutbox:
    """Where there is no journal."""

    tasks: tuple[asyncio.Task[None], ...] = ()

    async def keep(self, judged: RoutedVerdict, data: bytes, asked: RequestContext, number: int) -> None:
        """Nothing is kept."""

    def audited(self, answered: Verdict, reports: tuple[StageReport, ...]) -> None:
        """Nothing is kept."""

    def shadowed(self, answered: Verdict, said: Verdict) -> None:
        """Nothing is kept."""

    def load(self) -> JournalLoad | None:
        """None: there is none."""
        return None

    async def aclose(self) -> None:
        """Nothing is to be done."""


class JournalOutbox:
    """A spool on this machine's disk, and a task that empties it into the journal. Needs a running event loop.

    A record is in the spool before its answer is given, so it survives the process; it is sent until the journal has
    said that it is written, and the journal takes each once. name: of this replica.
    """

    def __init__(self, spec: JournalSpec, journal: DeploymentHandle, name: str) -> None:
        self._journal = journal
        self._media = spec.media_cap_gib > 0
        self._room = spec.spool_mib * 2**20
        self._spool = Spool(Path(spec.spool_folder) / f"{name}-{os.getpid()}", self._room)
        self._something = asyncio.Event()
        self._up = True
        self.committed = 0
        self.without_media = 0
        self._context = contextvars.copy_context()  # calls belong to no request, see RayStageClient
        self._sending = asyncio.create_task(self._send(), name="post")
        self.tasks = (self._sending,)

    async def keep(self, judged: RoutedVerdict, data: bytes, asked: RequestContext, number: int) -> None:
        """Write an answer down, before it is given. number: of the policy's edition."""
        entry = PredictionRecord(
            id=judged.verdict.answer_id,
            at_s=time.time(),
            verdict=judged.verdict,
            origin=asked.origin,
            caller=asked.caller,
            key=asked.key or "",
            policy_revision=number,
            sha256=await _digest(data),
            size=len(data),
            media=data if self._media else None,
            features=judged.features,
            features_model=_first_model(judged),
            audit=judged.verdict.audit,
        )
        if entry.media is not None and self._spool.waiting_bytes + len(data) > self._room // 2:
            self.without_media += 1  # verdicts go before pictures
            entry = replace(entry, media=None)
        self._append(encode(entry))

    def audited(self, answered: Verdict, reports: tuple[StageReport, ...]) -> None:
        """Write down what the stages said that the answer had not needed."""
        self._append(encode(DeferredResult(answered.answer_id, time.time(), "audit", stages=reports)))

    def shadowed(self, answered: Verdict, said: Verdict) -> None:
        """Write down what a shadow would have answered."""
        self._append(encode(DeferredResult(answered.answer_id, time.time(), "shadow", verdict=said)))

    def load(self) -> JournalLoad:
        """What it holds, and what it had to let go."""
        return JournalLoad(
            up=self._up,
            waiting=self._spool.waiting,
            waiting_bytes=self._spool.waiting_bytes,
            committed=self.committed,
            dropped=self._spool.dropped,
            without_media=self.without_media,
        )

    async def aclose(self) -> None:
        """Send what can be sent quickly. What is left stays in the spool, for the next replica on this machine."""
        self._sending.cancel()
        await asyncio.wait([self._sending])
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LAST_S):
                while await self._send_some():
                    pass
        self._spool.close()

    def _append(self, record: bytes) -> None:
        if not self._spool.append(record) and self._spool.dropped.bit_count() == 1:  # 1, 2, 4, 8 ... of them
            _LOG.error("The journal's spool is full: %d records are lost so far.", self._spool.dropped)
        self._something.set()

    async def _send(self) -> None:
        wait_s, orphans_s = _AGAIN_S, 0.0
        while True:
            if time.monotonic() >= orphans_s:
                orphans_s = time.monotonic() + _ORPHANS_EVERY_S
                if found := await asyncio.to_thread(self._spool.adopt_orphans):
                    _LOG.info("%d records of a process that has ended are sent on.", found)
            try:
                while await self._send_some():
                    wait_s = _AGAIN_S
            except Exception as error:
                if self._up:
                    _LOG.warning("The journal takes nothing at the moment; records wait on disk: %s", error)
                self._up = False
                await asyncio.sleep(wait_s)
                wait_s = min(_LONGEST_S, 2 * wait_s)
                continue
            self._up = True
            self._something.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ORPHANS_EVERY_S):
                    await self._something.wait()
            await asyncio.sleep(_GATHER_S)

    async def _send_some(self) -> int:
        """The oldest records. Returns how many, 0 when there are none."""
        records = self._spool.peek(_MOST, _MOST_BYTES)
        if records:
            response = self._context.copy().run(self._journal.commit.remote, records)
            try:
                async with asyncio.timeout(_COMMIT_S):
                    await response
            except BaseException:
                response.cancel()
                raise
            self._spool.acknowledge(len(records))
            self.committed += len(records)
        return len(records)


async def _digest(data: bytes) -> str:
    """SHA-256 of a file, hex; a large one does not hold up the loop."""
    if len(data) <= _HASH_INLINE:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())


def _first_model(judged: RoutedVerdict) -> str:
    """The backbone that the features are of."""
    if judged.features is None:
        return ""
    return next((report.model or "" for report in judged.verdict.stages if report.stage == "backbone"), "")
