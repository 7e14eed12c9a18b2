"""Nonces that have been used, against replayed calls, also after a restart."""

import json
import time
from pathlib import Path

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.miner.protocol import NONCE_LIFETIME_S, Call, CallRejected
from roadwork_serve.state_folder import make_folder

_MAX_STALE_LINES = 4096  # before the file is rewritten


class NonceStore:
    """The last nonce of each sender and uuid. A new one must be larger. Stale ones are deleted."""

    def __init__(self, file: Path | None = None) -> None:
        """Load the nonces.

        Args:
            file: File to which each nonce is appended before the call is answered; None keeps them only in memory.
        """
        self._last: dict[tuple[str, str], int] = {}
        self._file = file
        self._lines = 0
        self._uses = 0
        if file is not None:
            make_folder(file.parent)
            self._load(file)
            self._compact(file)

    def __len__(self) -> int:
        return len(self._last)

    def check(self, call: Call) -> None:
        """Check that a call is new.

        Raises:
            CallRejected: 401 for a replayed call.
        """
        if call.nonce <= self._last.get((call.sender, call.uuid), -1):
            raise CallRejected(
                401, "replay", "the nonce has been used, or a later one has; sign every call with a new one"
            )

    def use(self, call: Call, now_ns: int | None = None) -> None:
        """Record a call that is fresh and has a valid signature.

        Raises:
            CallRejected: 401 for a replayed call.
        """
        self.check(call)
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps([call.sender, call.uuid, call.nonce]) + "\n")
            self._lines += 1
        self._last[call.sender, call.uuid] = call.nonce
        self._prune(time.time_ns() if now_ns is None else now_ns)
        if self._file is not None and self._lines > len(self._last) + _MAX_STALE_LINES:
            self._compact(self._file)

    def _prune(self, now_ns: int) -> None:
        """Delete stale nonces at every 64th use."""
        self._uses += 1
        if self._uses % 64 == 0:
            oldest = now_ns - int(NONCE_LIFETIME_S * 1e9)
            self._last = {key: nonce for key, nonce in self._last.items() if nonce >= oldest}

    def _load(self, file: Path) -> None:
        oldest = time.time_ns() - int(NONCE_LIFETIME_S * 1e9)
        try:
            lines = file.read_text().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                sender, uuid, nonce = json.loads(line)
            except ValueError:  # the last line of a process that was killed
                continue
            if isinstance(nonce, int) and nonce >= oldest:
                self._last[sender, uuid] = max(nonce, self._last.get((sender, uuid), -1))

    def _compact(self, file: Path) -> None:
        with replace_file(file, os_errors=True) as draft:
            draft.write_text("".join(json.dumps([*key, nonce]) + "\n" for key, nonce in self._last.items()))
        self._lines = len(self._last)
