"""The headers of a validator's call and of the response.

This is the axon protocol of bittensor over HTTP, as used by the `Dendrite` of its SDK up to version 10.5.0, the last
with a Dendrite. The headers suffice to authenticate a call, so that its body is read only afterwards.
"""

import hashlib
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from roadwork_serve.decimal_text import integer, number

ROUTES = ("ImageSynapse", "ExtendedImageSynapse")
# The hash of no bytes: the two synapses declare no fields to hash, so the image is not signed.
BODY_HASH = hashlib.sha3_256(b"").hexdigest()
MIN_VERSION = 7_002_000  # of the SDK, since which nonces are timestamps
_MAX_TIMEOUT_S = 12.0  # longest timeout that extends the lifetime of a nonce
_CLOCK_SKEW_S = 4.0  # tolerated difference of clocks
_REQUIRED = (
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
_UUID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,64}")  # no dot, which separates the fields of the signed message


class CallRejected(Exception):
    """A call that is not answered. The message is sent to the caller."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Create the error.

        Args:
            status: HTTP status.
            reason: Label for the metrics.
            message: Text for the caller.
        """
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Call:
    """The headers of a call, well formed but not yet authenticated."""

    #: Name of the synapse.
    name: str
    #: Hotkey of the validator, ss58.
    sender: str
    #: Hotkey of the miner, ss58.
    receiver: str
    #: Nanoseconds since the epoch.
    nonce: int
    uuid: str
    signature: bytes
    #: Timeout of the validator in seconds.
    timeout_s: float

    @classmethod
    def read(cls, headers: Iterable[tuple[bytes, bytes]], route: str) -> "Call":
        """Parse raw headers with lower-case names.

        Raises:
            CallRejected: 400, with the header and how to correct it.
        """
        found: dict[str, str] = {}
        for raw_name, raw in headers:
            name = raw_name.decode("latin-1")
            if name not in _REQUIRED:
                continue
            if name in found:
                raise _bad(f"header {name} appears twice; send it once")
            found[name] = raw.decode("latin-1")
        missing = [name for name in _REQUIRED if not found.get(name)]
        if missing:
            raise _bad(f"header {missing[0]} is missing; send what the Dendrite of bittensor 7.2 to 10.5 sends")
        if found["name"] != route:
            raise _bad(f"header name is not {route}, the route of the call")
        if found["computed_body_hash"].lower() != BODY_HASH:
            raise _bad("header computed_body_hash is not that of a synapse that hashes no fields")
        version = _digits(found["bt_header_dendrite_version"], "bt_header_dendrite_version", 12)
        if version < MIN_VERSION:
            raise _bad(f"header bt_header_dendrite_version is below {MIN_VERSION}, since when nonces are timestamps")
        return cls(
            name=route,
            sender=_matching(found, "bt_header_dendrite_hotkey", _HOTKEY, "an ss58 address"),
            receiver=_matching(found, "bt_header_axon_hotkey", _HOTKEY, "an ss58 address"),
            nonce=_digits(found["bt_header_dendrite_nonce"], "bt_header_dendrite_nonce", 19),
            uuid=_matching(found, "bt_header_dendrite_uuid", _UUID, "1 to 64 printable characters without a dot"),
            signature=bytes.fromhex(
                _matching(found, "bt_header_dendrite_signature", _SIGNATURE, "0x and 128 hexadecimal digits")[2:]
            ),
            timeout_s=_seconds(found["timeout"]),
        )

    @property
    def signed(self) -> bytes:
        """The message that the sender signed with sr25519."""
        return f"{self.nonce}.{self.sender}.{self.receiver}.{self.uuid}.{BODY_HASH}".encode()

    def check_fresh(self, now_ns: int, max_ahead_s: float) -> None:
        """Check the age of the nonce.

        Args:
            now_ns: This clock, in nanoseconds since the epoch.
            max_ahead_s: How far the sender's clock may be ahead of it.

        Raises:
            CallRejected: 401 if it is too old or in the future.
        """
        window_s = _CLOCK_SKEW_S + min(self.timeout_s, _MAX_TIMEOUT_S)
        age_s = (now_ns - self.nonce) / 1e9
        if age_s > window_s:
            raise CallRejected(
                401, "stale", f"the nonce is {age_s:.1f} s old, {window_s:g} s are accepted; set your clock"
            )
        if age_s < -max_ahead_s:
            raise CallRejected(
                401,
                "future",
                f"the nonce is {-age_s:.1f} s ahead of this clock, {max_ahead_s:g} s are accepted; set your clock",
            )


def nonce_lifetime_s(max_ahead_s: float) -> float:
    """Return the longest time in which a nonce can be replayed, if clocks may be so far ahead."""
    return max_ahead_s + 2 * _CLOCK_SKEW_S + _MAX_TIMEOUT_S


def rounded_safely(probability: float, roadwork: bool) -> float:
    """Return the probability on the label's side of 0.5, since the subnet rounds it to a label."""
    edge = 1e-6
    return min(1.0, max(0.5 + edge, probability)) if roadwork else max(0.0, min(0.5 - edge, probability))


def answer_headers(call: Call, status: int, message: str, began: float) -> dict[str, str]:
    """Return the headers of a response.

    Args:
        call: The call.
        status: HTTP status.
        message: Status message.
        began: Start of the call on the clock of `time.monotonic()`.
    """
    return {
        "name": call.name,
        "timeout": f"{call.timeout_s:g}",
        "bt_header_axon_status_code": str(status),
        "bt_header_axon_status_message": message,
        "bt_header_axon_process_time": f"{time.monotonic() - began:.6f}",
    }


def _bad(message: str) -> CallRejected:
    return CallRejected(400, "headers", message)


def _matching(found: dict[str, str], name: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(found[name]):
        raise _bad(f"header {name} is not {what}")
    return found[name]


def _digits(text: str, name: str, most: int) -> int:
    try:
        value = integer(text)
    except ValueError:
        value = -1
    if value < 0 or len(text) > most:
        raise _bad(f"header {name} is not an integer of at most {most} digits")
    return value


def _seconds(text: str) -> float:
    try:
        timeout_s = number(text)
    except ValueError:
        timeout_s = math.nan
    if len(text) > 32 or not 0 < timeout_s < math.inf:
        raise _bad("header timeout is not a number of seconds above 0")
    return timeout_s
