"""Which nonces have been used, so that nothing is answered twice: over restarts, too."""

import json
import os
import time
from pathlib import Path

from roadwork_serve.miner.protocol import KEPT_S, Call, Refused

_LINES_TO_KEEP = 4096  # beyond those that count, before the file is written anew


class Nonces:
    """The last nonce of every sender and uuid. A nonce must be above it, and it is forgotten when it would be stale.

    file: gets a line for each that is used, before the call is answered; None keeps them in memory only.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._last: dict[tuple[str, str], int] = {}
        self._file = file
        self._lines = 0
        self._uses = 0
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._load(file)
            self._compact(file)

    def __len__(self) -> int:
        return len(self._last)

    def check(self, call: Call) -> None:
        """Raises Refused, 401, for a call that was seen before."""
        if call.nonce <= self._last.get((call.sender, call.uuid), -1):
            raise Refused(401, "replay", "the nonce has been used, or a later one has; sign every call with a new one")

    def use(self, call: Call, now_ns: int | None = None) -> None:
        """Take note of a call that is fresh and rightly signed. Raises Refused as `check` does."""
        self.check(call)
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps([call.sender, call.uuid, call.nonce]) + "\n")
            self._lines += 1
        self._last[call.sender, call.uuid] = call.nonce
        self._prune(time.time_ns() if now_ns is None else now_ns)
        if self._file is not None and self._lines > len(self._last) + _LINES_TO_KEEP:
            self._compact(self._file)

    def _prune(self, now_ns: int) -> None:
        """At every 64th use: the others look at none."""
        self._uses += 1
        if self._uses % 64 == 0:
            oldest = now_ns - int(KEPT_S * 1e9)
            self._last = {key: nonce for key, nonce in self._last.items() if nonce >= oldest}

    def _load(self, file: Path) -> None:
        oldest = time.time_ns() - int(KEPT_S * 1e9)
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
        draft = file.with_suffix(".new")
        draft.write_text("".join(json.dumps([*key, nonce]) + "\n" for key, nonce in self._last.items()))
        os.replace(draft, file)
        self._lines = len(self._last)
