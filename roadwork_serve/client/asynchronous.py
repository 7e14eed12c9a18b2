"""The client for asyncio."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

import httpx

from roadwork_serve.client import calls
from roadwork_serve.client.attempts import Attempts
from roadwork_serve.client.calls import BatchFile, JournalFilter, Media, PolicyBody
from roadwork_serve.client.settings import DEFAULT_RETRY, LOCAL_SERVER, ClientSettings, Retry
from roadwork_serve.schema import (
    BatchResult,
    Health,
    Job,
    JobPage,
    JobSummary,
    JournalEntry,
    JournalPage,
    PolicyChange,
    PolicyPreview,
    Readiness,
    ReviewLabel,
    Stats,
    Verdict,
)
from roadwork_serve.server_state import Info, PolicyState

T = TypeVar("T")


class AsyncClient(ClientSettings):
    """A client for asyncio, with the arguments and methods of `Client`. Close it, or use it with `async with`."""

    def __init__(
        self,
        url: str = LOCAL_SERVER,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        grace_s: float = 5.0,
        retry: Retry = DEFAULT_RETRY,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, grace_s, retry)
        self._http = httpx.AsyncClient(transport=transport, **self._for_httpx())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def classify(
        self,
        media: Media,
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
        filename: str | None = None,
    ) -> Verdict:
        """Classify a photo or clip; see `Client.classify`."""
        call = await asyncio.to_thread(calls.classify, media, deadline_ms, request_key, request_id, filename)
        return await self._send(call)

    async def classify_batch(
        self,
        files: Iterable[BatchFile],
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
    ) -> BatchResult:
        """Classify several files in one request; see `Client.classify_batch`."""
        read = await asyncio.to_thread(calls.read_all, files)
        return await self._send(calls.classify_batch(read, deadline_ms, request_key, request_id))

    async def create_job(
        self, path: Path, *, request_key: str | None = None, request_id: str | None = None
    ) -> JobSummary:
        """Send a clip that is too long for `classify`; see `Client.create_job`."""
        return await self._send(calls.create_job(path, request_key, request_id))

    async def job(self, job_id: str) -> Job:
        """Return a job with its verdicts so far; see `Client.job`."""
        return await self._send(calls.job(job_id))

    async def jobs(self, *, limit: int = 20) -> JobPage:
        """Return the newest jobs; see `Client.jobs`."""
        return await self._send(calls.jobs(limit))

    async def cancel_job(self, job_id: str) -> JobSummary:
        """Cancel a job; see `Client.cancel_job`."""
        return await self._send(calls.cancel_job(job_id))

    async def health(self) -> Health:
        """Return normally if the server process is alive."""
        return await self._send(calls.HEALTH)

    async def ready(self) -> Readiness:
        """Return the stages that are up and down. Raises NotReady while the server accepts no requests."""
        return await self._send(calls.READY)

    async def info(self) -> Info:
        """Return the version, models, active policy and limits of the server."""
        return await self._send(calls.INFO)

    async def stats(self) -> Stats:
        """Return the load and the request statistics of every ingress replica."""
        return await self._send(calls.STATS)

    async def policy(self) -> PolicyState:
        """Return the active policy and the history of revisions."""
        return await self._send(calls.POLICY)

    async def put_policy(self, policy: PolicyBody) -> PolicyChange:
        """Activate a policy, or a rollout with one, on every replica; see `Client.put_policy`."""
        return await self._send(calls.put_policy(policy))

    async def rollback_policy(self) -> PolicyChange:
        """Activate the previous policy again; see `Client.rollback_policy`."""
        return await self._send(calls.ROLLBACK)

    async def preview_policy(self, policy: PolicyBody, *, last: int = 500) -> PolicyPreview:
        """Replay a policy on the latest journal entries; see `Client.preview_policy`."""
        return await self._send(calls.preview_policy(policy, last))

    async def journal(
        self,
        *,
        limit: int | None = None,
        sort: Literal["newest", "informativeness"] = "newest",
        cursor: str | None = None,
        **where: Unpack[JournalFilter],
    ) -> JournalPage:
        """Return journal entries; see `Client.journal`."""
        return await self._send(calls.journal(limit, sort, cursor, where))

    async def journal_media(self, entry_id: str) -> bytes:
        """Return the encoded photo or clip of a journal entry; see `Client.journal_media`."""
        return await self._send(calls.journal_media(entry_id))

    async def journal_thumbnail(self, entry_id: str) -> bytes:
        """Return a small JPEG of a journal entry; see `Client.journal_thumbnail`."""
        return await self._send(calls.journal_thumbnail(entry_id))

    async def label(self, entry_id: str, label: ReviewLabel, *, note: str = "") -> JournalEntry:
        """Label a journal entry; see `Client.label`."""
        return await self._send(calls.label_entry(entry_id, label, note))

    async def withdraw_label(self, entry_id: str) -> JournalEntry:
        """Withdraw your label of an entry; see `Client.withdraw_label`."""
        return await self._send(calls.withdraw_label(entry_id))

    async def _send(self, call: calls.Call[T]) -> T:
        attempts = Attempts(call, self)
        while True:
            try:
                request = attempts.request()
                if call.file is not None:
                    request["content"] = calls.chunks_async(call.file)
                response = await self._http.request(**request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise attempts.unreachable(error) from None
            if (pause_s := attempts.pause_s(response)) is None:
                return attempts.result(response)
            await asyncio.sleep(pause_s)
