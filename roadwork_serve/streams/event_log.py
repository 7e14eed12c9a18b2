"""The events of a camera in a file, from which they are also delivered: nothing is lost or repeated after a restart."""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import httpx
from filelock import FileLock, Timeout
from pydantic import ValidationError

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.streams.events import Event

_MOST_LINE = 64 * 2**10
_BEGINNING = b'{"id":'  # of an event
_RETRY_S, _MOST_RETRY_S, _TIMEOUT_S = 1.0, 60.0, 10.0


class EventLog:
    """A file of events, one JSON line each, on disk before `append` returns.

    Use it with `with`. Raises ConfigError if the file cannot be written, is used by another process, or has other
    content, which is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._file = -1

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"another process writes {self.path}; stop it, or name another --out") from None
        except OSError as error:
            raise self._not_written(error) from None
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._check_content()
        except OSError as error:
            self._close()
            raise self._not_written(error) from None
        except ConfigError:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def append(self, event: Event) -> None:
        """Add an event. Raises OSError if it cannot be written."""
        line = event.model_dump_json().encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(28, "no space left on device")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def last(self) -> Event | None:
        """Return the last event; None if there is none."""
        lines = self._tail().splitlines()
        return _event(lines[-1]) if lines else None

    def read(self, at: int) -> tuple[bytes, int] | None:
        """Return the line that begins at a position, and where the next one does; None if there is none yet."""
        line, found, _ = os.pread(self._file, _MOST_LINE, at).partition(b"\n")
        return (line, at + len(line) + 1) if found else None

    def line_before(self, at: int) -> bytes:
        """Return the line that ends at a position; nothing if there is none."""
        begin = max(0, at - _MOST_LINE)
        part = os.pread(self._file, at - begin, begin)
        return part[:-1].rpartition(b"\n")[2] if len(part) == at - begin and part.endswith(b"\n") else b""

    def _check_content(self) -> None:
        """Remove what a power cut left of the last line. Raise ConfigError if the file has something else in it."""
        head, tail = os.pread(self._file, _MOST_LINE, 0), self._tail()
        first, whole, _ = head.partition(b"\n")
        rest = tail[tail.rfind(b"\n") + 1 :]
        if (whole and _event(first) is None) or (rest and not (whole and rest.startswith(_BEGINNING[: len(rest)]))):
            raise ConfigError(f"{self.path} has something other than events in it; name another --out")
        if rest:
            os.ftruncate(self._file, os.fstat(self._file).st_size - len(rest))
        lines = tail[: len(tail) - len(rest)].splitlines()
        if lines and _event(lines[-1]) is None:
            raise ConfigError(f"{self.path} has something other than events in it; name another --out")

    def _tail(self) -> bytes:
        size = os.fstat(self._file).st_size
        return os.pread(self._file, _MOST_LINE, max(0, size - _MOST_LINE))

    def _not_written(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self.path} cannot be written: {error.strerror or error}; name another --out")

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()


class _Delivered(NamedTuple):
    """The position up to which a log was delivered."""

    #: Where the next line begins.
    at: int
    #: SHA-256 of the line before it.
    line: str


def check_webhook(url: str) -> None:
    """Raise ConfigError for what is no URL of HTTP."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"the webhook's URL is invalid: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host or not 0 < (parts.port or 80) < 2**16:
        raise ConfigError("the webhook is a URL with http:// or https://, a host and a valid port")


async def deliver(
    log: EventLog,
    url: str,
    on_problem: Callable[[str], None],
    transport: httpx.AsyncBaseTransport | None = None,
    pause_s: float = 0.2,
) -> None:
    """Post the events of a log to a URL, in order, each until it is accepted. Runs until it is cancelled.

    Where the last run stopped is in a file beside the log. An event comes twice if the power fails between its
    acceptance and the note of it; `Idempotency-Key` then has the same value. A log that was begun anew is delivered
    from its start.

    Args:
        log: The events.
        url: Accepts each as JSON, with a status from 200 to 299.
        on_problem: Called with why an event was not accepted, once until another is.
        transport: Of httpx, for tests.
        pause_s: Seconds from one look into the log to the next.
    """
    noted = log.path.with_name(log.path.name + ".delivered")
    at, told, retry_s = _position(noted, log), False, _RETRY_S
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, transport=transport) as client:
        while True:
            found = log.read(at)
            if found is None:
                await asyncio.sleep(pause_s)
                continue
            line, after = found
            key = hashlib.sha256(line).hexdigest()
            headers = {"Content-Type": "application/json", "Idempotency-Key": key}
            try:
                (await client.post(url, content=line, headers=headers)).raise_for_status()
                problem = ""
            except httpx.HTTPStatusError as error:
                problem = f"the webhook does not accept events (status {error.response.status_code}); they are kept"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = f"the webhook cannot be reached ({type(error).__name__}); events are kept"
            if problem:
                if not told:
                    on_problem(problem)
                told = True
                await asyncio.sleep(retry_s)
                retry_s = min(_MOST_RETRY_S, 2 * retry_s)
                continue
            at, told, retry_s = after, False, _RETRY_S
            try:
                with replace_file(noted, sync=True) as draft:
                    draft.write_text(json.dumps(_Delivered(at, key)._asdict()) + "\n", encoding="ascii")
            except (OSError, RoadworkError) as error:
                on_problem(f"{noted} cannot be written ({error}); after a restart events are posted again")


def _position(noted: Path, log: EventLog) -> int:
    """Return where the next event to deliver begins; 0 if the note is not of this log."""
    try:
        delivered = _Delivered(**json.loads(noted.read_text(encoding="ascii")))
        return delivered.at if hashlib.sha256(log.line_before(delivered.at)).hexdigest() == delivered.line else 0
    except (OSError, ValueError, TypeError):
        return 0


def _event(line: bytes) -> Event | None:
    try:
        return Event.model_validate_json(line)
    except ValidationError:
        return None
