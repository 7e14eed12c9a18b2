"""Nonces that have been used, against replayed calls, also after a restart."""

import json
import time
from pathlib import Path

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.miner.protocol import Call, CallRejected, nonce_lifetime_s
from roadwork_serve.miner.state_files import make_state_folder, read_state, set_aside

_MAX_STALE_LINES = 4096  # before the file is rewritten


class NonceStore:
    """The last nonce of each sender and uuid. A new one must be larger. Stale ones are deleted."""

    def __init__(self, file: Path | None = None, lifetime_s: float = nonce_lifetime_s(0.0)) -> None:
        """Load the nonces. Lines that cannot be read are set aside.

        Args:
            file: File to which each nonce is appended before the call is answered; None keeps them only in memory.
            lifetime_s: Time for which a nonce is kept; see `nonce_lifetime_s`.

        Raises:
            ConfigError: The file cannot be read or written.
        """
        self._lifetime_ns = int(lifetime_s * 1e9)
        self._last: dict[tuple[str, str], int] = {}
        self._file = file
        self._lines = 0
        self._uses = 0
        if file is not None:
            make_state_folder(file.parent)
            self._load(file)
            self._compact(file, os_errors=False)

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
            oldest = now_ns - self._lifetime_ns
            self._last = {key: nonce for key, nonce in self._last.items() if nonce >= oldest}

    def _load(self, file: Path) -> None:
        oldest = time.time_ns() - self._lifetime_ns
        damaged: list[bytes] = []
        for line in (read_state(file) or b"").split(b"\n"):
            if (parsed := _parsed(line)) is not None:
                sender, uuid, nonce = parsed
                if nonce >= oldest:
                    self._last[sender, uuid] = max(nonce, self._last.get((sender, uuid), -1))
            elif line:
                damaged.append(line)
        if damaged:
            set_aside(file, b"\n".join(damaged), f"{len(damaged)} of its lines are left out")

    def _compact(self, file: Path, os_errors: bool = True) -> None:
        with replace_file(file, os_errors=os_errors) as draft:
            draft.write_text("".join(json.dumps([*key, nonce]) + "\n" for key, nonce in self._last.items()))
        self._lines = len(self._last)


def _parsed(line: bytes) -> tuple[str, str, int] | None:
    """Return sender, uuid and nonce of a line; None if it is none, such as the last line of a killed process."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match fields:
        case [str(sender), str(uuid), int(nonce)] if not isinstance(nonce, bool):
            return sender, uuid, nonce
        case _:
            return None
