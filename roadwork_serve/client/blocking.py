"""The client for synchronous code."""

import time
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


class Client(ClientSettings):
    """A synchronous client. Close it, or use it as a context manager; threads may share one.

    Args:
        url: Address of the server; `http://` is assumed where no scheme is given.
        api_key: API key; by default the one in the environment variable ROADWORK_API_KEY, if there is one.
        timeout_s: Seconds of silence after which a call without a deadline fails.
        grace_s: Seconds that a response may be late when the call has a deadline.
        retry: When a rejected request is sent again.
        transport: An httpx transport, for tests or special networks.

    Raises:
        BadRequest: When the URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str = LOCAL_SERVER,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        grace_s: float = 5.0,
        retry: Retry = DEFAULT_RETRY,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, grace_s, retry)
        self._http = httpx.Client(transport=transport, **self._for_httpx())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def classify(
        self,
        media: Media,
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
        filename: str | None = None,
    ) -> Verdict:
        """Classify a photo or clip.

        Args:
            media: The encoded file, or its path. The server detects the format from the bytes.
            deadline_ms: Milliseconds until the verdict is needed, retries included; the server's default if None.
            request_key: What an A/B test keeps on one side, such as the name of a camera.
            request_id: Name of this request in the server's logs and journal; the server makes one up if None.
            filename: Name of the file in the server's journal; by default that of the path, if `media` is one.

        Example:
            >>> with Client() as client:  # doctest: +SKIP
            ...     client.classify(Path("photo.jpg"), deadline_ms=2000).label
            'roadwork'
        """
        return self._send(calls.classify(media, deadline_ms, request_key, request_id, filename))

    def classify_batch(
        self,
        files: Iterable[BatchFile],
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
    ) -> BatchResult:
        """Classify several files in one request. Each gets a verdict or a problem of its own, in the order given.

        Args:
            files: Paths, or pairs of a name and the bytes. `info().limits` has the most that a batch may hold.
            deadline_ms: Milliseconds until the verdicts are needed, retries included.
            request_key: See `classify`; it holds for every file.
            request_id: See `classify`; the server adds the number of each file to it.
        """
        return self._send(calls.classify_batch(calls.read_all(files), deadline_ms, request_key, request_id))

    def create_job(self, path: Path, *, request_key: str | None = None, request_id: str | None = None) -> JobSummary:
        """Send a clip that is too long for `classify`. `job` then shows the verdicts on its parts.

        Args:
            path: The clip, which is read while it is sent.
            request_key: See `classify`; it holds for every part.
            request_id: See `classify`.

        Example:
            >>> with Client() as client:  # doctest: +SKIP
            ...     created = client.create_job(Path("drive.mp4"))
            ...     while (job := client.job(created.id)).state in ("waiting", "running"):
            ...         time.sleep(5)
            ...     print(job.label, job.highest_start_s)
        """
        return self._send(calls.create_job(path, request_key, request_id))

    def job(self, job_id: str) -> Job:
        """Return a job with its verdicts so far. Raises NotFound if there is none, or its result has been deleted."""
        return self._send(calls.job(job_id))

    def jobs(self, *, limit: int = 20) -> JobPage:
        """Return the newest jobs of this key, or of all callers for an admin."""
        return self._send(calls.jobs(limit))

    def cancel_job(self, job_id: str) -> JobSummary:
        """Cancel a job. One that has ended stays as it is."""
        return self._send(calls.cancel_job(job_id))

    def health(self) -> Health:
        """Return normally if the server process is alive; it may still be loading models."""
        return self._send(calls.HEALTH)

    def ready(self) -> Readiness:
        """Return the stages that are up and down. Raises NotReady while the server accepts no requests."""
        return self._send(calls.READY)

    def info(self) -> Info:
        """Return the version, models, active policy and limits of the server."""
        return self._send(calls.INFO)

    def stats(self) -> Stats:
        """Return the load and the request statistics of every ingress replica."""
        return self._send(calls.STATS)

    def policy(self) -> PolicyState:
        """Return the active policy and the history of revisions."""
        return self._send(calls.POLICY)

    def put_policy(self, policy: PolicyBody) -> PolicyChange:
        """Activate a policy, or a rollout with one, on every replica. It needs an admin key.

        Raises:
            PolicyRefused: When the policy is invalid, or the server has no such stage or head.
            PolicyConflict: When the version was used before with other content.
        """
        return self._send(calls.put_policy(policy))

    def rollback_policy(self) -> PolicyChange:
        """Activate the previous policy again. Raises PolicyConflict when there is none. It needs an admin key."""
        return self._send(calls.ROLLBACK)

    def preview_policy(self, policy: PolicyBody, *, last: int = 500) -> PolicyPreview:
        """Replay a policy on the latest journal entries, and compare it with the active one.

        Args:
            policy: A policy, or a rollout with one.
            last: Number of journal entries to replay.
        """
        return self._send(calls.preview_policy(policy, last))

    def journal(
        self,
        *,
        limit: int | None = None,
        sort: Literal["newest", "informativeness"] = "newest",
        cursor: str | None = None,
        **where: Unpack[JournalFilter],
    ) -> JournalPage:
        """Return journal entries: the newest, or the most informative ones that nobody has labeled yet.

        Args:
            limit: Number of entries; the server's default if None.
            sort: Order of the entries.
            cursor: The `next_cursor` of the page before, for more of the newest.
            where: Selects entries, such as `label="roadwork", filename="camera-7"`; see `JournalFilter`.

        Example:
            >>> with Client() as client:  # doctest: +SKIP
            ...     for entry in client.journal(sort="informativeness").entries:
            ...         print(entry.id, entry.informativeness, entry.reasons)
        """
        return self._send(calls.journal(limit, sort, cursor, where))

    def journal_media(self, entry_id: str) -> bytes:
        """Return the encoded photo or clip of a journal entry. Raises NotFound when it is not stored."""
        return self._send(calls.journal_media(entry_id))

    def journal_thumbnail(self, entry_id: str) -> bytes:
        """Return a small JPEG of a journal entry. Raises NotFound when its file is not stored."""
        return self._send(calls.journal_thumbnail(entry_id))

    def label(self, entry_id: str, label: ReviewLabel, *, note: str = "") -> JournalEntry:
        """Label a journal entry. Earlier labels are kept; the last one counts."""
        return self._send(calls.label_entry(entry_id, label, note))

    def withdraw_label(self, entry_id: str) -> JournalEntry:
        """Withdraw your label of an entry. Raises NotFound unless the latest label is yours."""
        return self._send(calls.withdraw_label(entry_id))

    def _send(self, call: calls.Call[T]) -> T:
        attempts = Attempts(call, self)
        while True:
            try:
                request = attempts.request()
                if call.file is not None:
                    request["content"] = calls.chunks(call.file)
                response = self._http.request(**request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise attempts.unreachable(error) from None
            if (pause_s := attempts.pause_s(response)) is None:
                return attempts.result(response)
            time.sleep(pause_s)
