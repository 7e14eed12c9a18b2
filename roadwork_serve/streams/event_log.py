"""The events of a camera in a file, from which they are also delivered: nothing is lost or repeated after a restart."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from filelock import FileLock, Timeout
from pydantic import ValidationError

from roadwork_serve.atomic_write import write_text
from roadwork_serve.errors import ConfigError
from roadwork_serve.streams.events import Event

_MOST_LINE = 64 * 2**10
_RETRY_S, _MOST_RETRY_S, _TIMEOUT_S = 1.0, 60.0, 10.0


class EventLog:
    """A file of events, one JSON line each, on disk before `append` returns.

    Use it with `with`. Raises ConfigError if the file cannot be written, is used by another process, or has other
    content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._file = -1

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._drop_half_a_line()
        except Timeout:
            raise ConfigError(f"another process writes {self.path}; stop it, or name another --out") from None
        except OSError as error:
            self._lock.release()
            raise ConfigError(f"{self.path} cannot be written: {error.strerror or error}; name another --out") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._lock.release()

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
        size = os.fstat(self._file).st_size
        lines = os.pread(self._file, _MOST_LINE, max(0, size - _MOST_LINE)).splitlines()
        if not lines:
            return None
        try:
            return Event.model_validate_json(lines[-1])
        except ValidationError:
            raise ConfigError(f"{self.path} has something other than events in it; name another --out") from None

    def read(self, at: int) -> tuple[bytes, int] | None:
        """Return the line that begins at a position, and where the next one does; None if there is none yet."""
        line, found, _ = os.pread(self._file, _MOST_LINE, at).partition(b"\n")
        return (line, at + len(line) + 1) if found else None

    def _drop_half_a_line(self) -> None:
        """Remove what a power cut left of the last line."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, _MOST_LINE, max(0, size - _MOST_LINE))
        if tail and not tail.endswith(b"\n"):
            os.ftruncate(self._file, size - len(tail) + tail.rfind(b"\n") + 1)


async def deliver(
    log: EventLog,
    url: str,
    on_problem: Callable[[str], None],
    transport: httpx.AsyncBaseTransport | None = None,
    pause_s: float = 0.2,
) -> None:
    """Post the events of a log to a URL, in order, each until it is accepted. Runs until it is cancelled.

    Where the last run stopped is in a file beside the log. An event may come twice if the power fails between its
    acceptance and the note of it; `Idempotency-Key` then has the same value.

    Args:
        log: The events.
        url: Accepts each as JSON, with a status from 200 to 299.
        on_problem: Called with why an event was not accepted, once until another is.
        transport: Of httpx, for tests.
        pause_s: Seconds from one look into the log to the next.
    """
    noted = log.path.with_name(log.path.name + ".delivered")
    at, told, retry_s = _position(noted), False, _RETRY_S
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, transport=transport) as client:
        while True:
            found = log.read(at)
            if found is None:
                await asyncio.sleep(pause_s)
                continue
            line, after = found
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"{at}-{log.path.name}"}
            try:
                (await client.post(url, content=line, headers=headers)).raise_for_status()
            except httpx.HTTPError as error:
                if not told:
                    reason = f"status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
                    on_problem(f"the webhook does not accept events ({reason or type(error).__name__}); they are kept")
                told = True
                await asyncio.sleep(retry_s)
                retry_s = min(_MOST_RETRY_S, 2 * retry_s)
                continue
            at, told, retry_s = after, False, _RETRY_S
            write_text(noted, f"{at}\n")


def _position(path: Path) -> int:
    try:
        return max(0, int(path.read_text(encoding="ascii")))
    except (FileNotFoundError, ValueError):
        return 0
