"""What a validator's call says of itself in its headers, and the answer it expects.

The axon protocol of bittensor over HTTP, as the `Dendrite` of its SDK speaks it up to version 10.5.0, the last that has
one. All that decides who is answered stands in headers: nothing of a body is read before.
"""

import hashlib
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

ROUTES = ("ImageSynapse", "ExtendedImageSynapse")
# Of no bytes: the two synapses name no fields to hash, so the picture itself is not signed.
BODY_HASH = hashlib.sha3_256(b"").hexdigest()
LEAST_VERSION = 7_002_000  # of the SDK; from it on nonces are times
_LONGEST_TIMEOUT_S = 12.0  # counted towards freshness, whatever a sender asks for
_DELTA_S = 4.0  # clocks may be apart
_NEEDED = (
    "name",
    "timeout",
    "computed_body_hash",
    "bt_header_axon_hotkey",
    "bt_header_dendrite_hotkey",
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_signature",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_version",
)
_HOTKEY = re.compile(r"[1-9A-HJ-NP-Za-km-z]{47,48}")  # base58, of 35 bytes
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{128}")
_UUID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,64}")  # no dot: it parts what is signed


class Refused(Exception):
    """A call that is not answered. status: HTTP's; reason: a word for the metrics; the message goes to the caller."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Call:
    """The headers of a call, well formed but not yet believed. sender, receiver: hotkeys, ss58. nonce: ns of the epoch.

    timeout_s: after how long the sender stops waiting.
    """

    name: str
    sender: str
    receiver: str
    nonce: int
    uuid: str
    signature: bytes
    timeout_s: float

    @classmethod
    def read(cls, headers: Iterable[tuple[bytes, bytes]], route: str) -> "Call":
        """From raw headers with lower-case names. Raises Refused, 400, naming the header to mend."""
        found: dict[str, str] = {}
        for raw_name, raw in headers:
            name = raw_name.decode("latin-1")
            if name not in _NEEDED:
                continue
            if name in found:
                raise _bad(f"header {name} is there twice; send it once")
            found[name] = raw.decode("latin-1").strip()
        missing = [name for name in _NEEDED if not found.get(name)]
        if missing:
            raise _bad(f"header {missing[0]} is missing; send what the Dendrite of bittensor 7.2 to 10.5 sends")
        if found["name"] != route:
            raise _bad(f"header name is not {route}, the route that was asked")
        if found["computed_body_hash"].lower() != BODY_HASH:
            raise _bad("header computed_body_hash is not that of a synapse that hashes no fields")
        version = _digits(found["bt_header_dendrite_version"], "bt_header_dendrite_version", 12)
        if version < LEAST_VERSION:
            raise _bad(f"header bt_header_dendrite_version is below {LEAST_VERSION}: nonces were no times before that")
        return cls(
            name=route,
            sender=_matching(found, "bt_header_dendrite_hotkey", _HOTKEY, "an ss58 address"),
            receiver=_matching(found, "bt_header_axon_hotkey", _HOTKEY, "an ss58 address"),
            nonce=_digits(found["bt_header_dendrite_nonce"], "bt_header_dendrite_nonce", 19),
            uuid=_matching(found, "bt_header_dendrite_uuid", _UUID, "1 to 64 printable letters without a dot"),
            signature=bytes.fromhex(
                _matching(found, "bt_header_dendrite_signature", _SIGNATURE, "0x and 128 hexadecimal digits")[2:]
            ),
            timeout_s=_seconds(found["timeout"]),
        )

    @property
    def signed(self) -> bytes:
        """What the sender signed, by sr25519."""
        return f"{self.nonce}.{self.sender}.{self.receiver}.{self.uuid}.{BODY_HASH}".encode()

    def check_fresh(self, now_ns: int) -> None:
        """Raises Refused, 401, for a nonce that is too old, or of the future."""
        window_s = _DELTA_S + min(self.timeout_s, _LONGEST_TIMEOUT_S)
        age_s = (now_ns - self.nonce) / 1e9
        if age_s > window_s:
            raise Refused(401, "stale", f"the nonce is {age_s:.1f} s old, {window_s:g} s are accepted; set your clock")
        if age_s < -_DELTA_S:
            raise Refused(401, "future", f"the nonce is {-age_s:.1f} s ahead of this clock; set yours")


KEPT_S = 2 * _DELTA_S + _LONGEST_TIMEOUT_S  # for so long, at most, a nonce could be played again


def prediction(probability: float, roadwork: bool) -> float:
    """P(road work) as the subnet reads it: it rounds, so 0.5 itself would say neither, and what is above says yes."""
    edge = 1e-6
    return min(1.0, max(0.5 + edge, probability)) if roadwork else max(0.0, min(0.5 - edge, probability))


def answer_headers(call: Call, status: int, message: str, began: float) -> dict[str, str]:
    """What a Dendrite reads of an answer beside its body. began: on the clock of `time.monotonic()`."""
    return {
        "name": call.name,
        "timeout": f"{call.timeout_s:g}",
        "bt_header_axon_status_code": str(status),
        "bt_header_axon_status_message": message,
        "bt_header_axon_process_time": f"{time.monotonic() - began:.6f}",
    }


def _bad(message: str) -> Refused:
    return Refused(400, "headers", message)


def _matching(found: dict[str, str], name: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(found[name]):
        raise _bad(f"header {name} is not {what}")
    return found[name]


def _digits(text: str, name: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= most):
        raise _bad(f"header {name} is no whole number of at most {most} digits")
    return int(text)


def _seconds(text: str) -> float:
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = math.nan
    if len(text) > 32 or not 0 < timeout_s < math.inf:
        raise _bad("header timeout is no number of seconds above 0")
    return timeout_s
