"""The axon: the HTTP server that validators call.

The headers of a call are checked before its body is read: format, receiver, freshness, blacklist, signature and nonce.
Then the body is read within a size limit and the validator's deadline, and its image goes to the cascade.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from roadwork_serve.decimal_text import integer
from roadwork_serve.errors import DeadlineExceeded, MediaError, NoOpinion, Overloaded, RoadworkError
from roadwork_serve.miner.blacklist import Blacklist
from roadwork_serve.miner.forward import ForwardCache
from roadwork_serve.miner.metrics import MinerMetrics
from roadwork_serve.miner.nonces import NonceStore
from roadwork_serve.miner.protocol import ROUTES, Call, CallRejected, answer_headers, rounded_safely
from roadwork_serve.still_formats import STILL_NAMES, still_format
from roadwork_serve.token_bucket import TokenBucket

_LOG = logging.getLogger("roadwork.miner")
_MAX_TIMEOUT_S = 9.0  # validators of the subnet wait no longer, whatever their header says
_INLINE_BYTES = 256 * 1024  # larger bodies are parsed in a thread
_MAX_TOKENS = 4096  # brackets, commas and colons in a body; a synapse has a few dozen, and parsing blocks the loop
_DRAIN_S = 0.5
_CLOSING = {"connection": "close"}  # one call per connection, so that its headers can have a time limit
NO_ANSWER = -1.0
_LOGGED_PER_MINUTE = 10.0
_CLOCKS = "If it happens with several validators, this machine's clock is wrong: see `timedatectl`."
_CURES = {
    "stale": _CLOCKS,
    "future": f"{_CLOCKS} If with one, its clock is: --max-clock-ahead-s accepts more.",
    "replay": "A copy of an earlier call, or a validator that signs two calls with one nonce.",
}
Verify = Callable[[bytes, bytes, str], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on calls."""

    #: Largest body in bytes.
    max_body: int = 16 * 2**20
    #: Largest size of all bodies in flight in bytes.
    in_flight: int = 256 * 2**20
    #: Part of the validator's timeout reserved for the network, in seconds.
    margin_s: float = 0.5
    #: How far a validator's clock may be ahead of this one, in seconds.
    max_clock_ahead_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Synapse:
    """The content of a call."""

    #: Encoded image.
    image: bytes
    #: 1 or 0 on the test net, which sends the label; else -1.
    label: int


class Axon:
    """Answers the calls of validators."""

    def __init__(
        self,
        hotkey: str,
        verify: Verify,
        blacklist: Blacklist,
        nonces: NonceStore,
        forward: ForwardCache,
        metrics: MinerMetrics,
        limits: Limits = Limits(),
    ) -> None:
        """Create the axon.

        Args:
            hotkey: ss58 address of this miner.
            verify: Returns True if a message has this signature by this hotkey.
            blacklist: Decides who may call.
            nonces: NonceStore that have been used.
            forward: Classifies images.
            metrics: Metrics of the calls.
            limits: Limits on calls.
        """
        self.hotkey = hotkey
        self._verify = verify
        self._blacklist = blacklist
        self._nonces = nonces
        self._forward = forward
        self._metrics = metrics
        self._limits = limits
        self._body_bytes = 0  # of all bodies in flight
        self._refusals = TokenBucket()
        self._unlogged = 0  # refused nonces without a line in the log

    def app(self) -> Starlette:
        """Return the HTTP application with the subnet's routes."""
        app = Starlette(
            routes=[Route(f"/{route}", self._route(route), methods=["POST"]) for route in ROUTES],
            exception_handlers={404: _not_found, 405: _not_found},
        )
        app.router.redirect_slashes = False
        return app

    def _route(self, route: str) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            began = time.monotonic()
            call: Call | None = None
            try:
                call = Call.read(request.headers.raw, route)
                stake = self._authorize(call, request)
                async with self._blacklist.limit(call.sender):
                    self._nonces.use(call)
                    probability, label = await self._answer(call, stake, request, began)
            except CallRejected as rejection:
                self._metrics.record_rejection(rejection.reason)
                if call is not None and rejection.reason in _CURES:
                    self._log_refusal(call, rejection)
                await _drain(request)
                return _rejection(rejection, call, began)
            except ClientDisconnect:
                self._metrics.record_rejection("disconnected")
                return _rejection(CallRejected(408, "disconnected", "the caller disconnected"), call, began)
            except Exception:
                _LOG.exception("Unhandled error while answering a call.")
                self._metrics.record_rejection("internal")
                await _drain(request)
                return _rejection(CallRejected(503, "internal", "this miner has an internal error"), call, began)
            self._metrics.record_duration(time.monotonic() - began)
            headers = answer_headers(call, 200, "Success", began) | _CLOSING
            return JSONResponse(_response_body(call, probability, label), headers=headers)

        return endpoint

    def _log_refusal(self, call: Call, rejection: CallRejected) -> None:
        """Log a refused nonce, whose cause may be this clock. Only so many, since anybody can send them."""
        if self._refusals.take(1, _LOGGED_PER_MINUTE, time.monotonic()):
            self._unlogged += 1
            return
        _LOG.warning(
            "Refused a call of %s: %s. %s%s", call.sender, rejection, _CURES[rejection.reason],
            f" {self._unlogged} more were refused since the last such line." if self._unlogged else "",
        )  # fmt: skip
        self._unlogged = 0

    def _authorize(self, call: Call, request: Request) -> float:
        """Check the headers before the body is read, and return the caller's stake.

        Raises:
            CallRejected: A check fails.
        """
        if call.receiver != self.hotkey:
            raise CallRejected(401, "receiver", "the call is for another hotkey")
        call.check_fresh(time.time_ns(), self._limits.max_clock_ahead_s)
        stake = self._blacklist.check(call.sender)
        try:
            length = integer(request.headers.get("content-length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= self._limits.max_body:
            raise CallRejected(413, "size", f"a body may have at most {self._limits.max_body} bytes")
        if not self._verify(call.signed, call.signature, call.sender):
            raise CallRejected(401, "signature", "the signature is not valid for this call and sender")
        self._nonces.check(call)
        return stake

    async def _answer(self, call: Call, stake: float, request: Request, began: float) -> tuple[float, int]:
        """Return the prediction, and the label that came with the call.

        Raises:
            CallRejected: The call cannot be answered.
            ClientDisconnect: The caller disconnected.
        """
        deadline_s = began + min(call.timeout_s, _MAX_TIMEOUT_S) - self._limits.margin_s
        name, label = f"axon-{call.uuid[:36]}-{call.nonce}", -1
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                synapse = await self._read(request)
                label = synapse.label
                verdict, cached = await self._forward.classify(synapse.image, deadline_s, name, call.sender, stake)
        except (TimeoutError, DeadlineExceeded):
            raise CallRejected(408, "deadline", "the timeout passed before there was an answer") from None
        except MediaError as error:
            raise CallRejected(422, error.slug, str(error)) from None
        except NoOpinion as error:
            _LOG.warning("%s: %s", name, error)
            self._metrics.record_abstention()
            return NO_ANSWER, label
        except Overloaded as error:
            raise CallRejected(503, error.slug, str(error)) from None
        except RoadworkError as error:
            _LOG.warning("%s: %s", name, error)
            raise CallRejected(503, error.slug, "the cascade cannot be reached; try again") from None
        probability = rounded_safely(verdict.probability, verdict.positive)
        self._metrics.record_answer(verdict.exit.stage or "none", cached, probability, label)
        return probability, label

    async def _read(self, request: Request) -> Synapse:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._body_bytes += len(chunk)
                if len(body) > self._limits.max_body:
                    raise CallRejected(413, "size", f"a body may have at most {self._limits.max_body} bytes")
                if self._body_bytes > self._limits.in_flight:
                    raise CallRejected(503, "busy", "too many large calls are being read; try again in a second")
            return (
                parse_synapse(bytes(body))
                if len(body) <= _INLINE_BYTES
                else await asyncio.to_thread(parse_synapse, bytes(body))
            )
        finally:
            self._body_bytes -= len(body)


def parse_synapse(body: bytes) -> Synapse:
    """Parse the JSON of a synapse.

    Raises:
        CallRejected: 422, with the field and how to correct it.
    """
    if sum(map(body.count, (b"[", b"{", b",", b":"))) > _MAX_TOKENS:
        raise CallRejected(422, "json", "the body is not a synapse: it has too many fields")
    try:
        synapse: object = json.loads(body)
    except (ValueError, RecursionError):
        raise CallRejected(422, "json", "the body is not valid JSON; send the synapse as the Dendrite does") from None
    if not isinstance(synapse, dict):
        raise CallRejected(422, "json", "the body is not a JSON object")
    fields: dict[str, object] = {str(name): value for name, value in synapse.items()}  # pyright: ignore
    image, label = fields.get("image"), fields.get("testnet_label", -1)
    if not isinstance(image, str) or not image:
        raise CallRejected(422, "image", "image is not text; send the JPEG in base64")
    if isinstance(label, bool) or not isinstance(label, int):
        raise CallRejected(422, "label", "testnet_label is not an integer")
    try:
        data = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise CallRejected(422, "base64", "image is not valid base64") from None
    if still_format(data) is None:
        raise CallRejected(422, "unsupported-media", f"image is not a {STILL_NAMES} file")
    return Synapse(data, label if label in (0, 1) else -1)


def _response_body(call: Call, probability: float, label: int) -> dict[str, Any]:
    """Return the synapse as a Dendrite expects it, without the image, which it has already."""
    extended = {"model_url": ""} if call.name == "ExtendedImageSynapse" else {}
    return {
        "name": call.name,
        "timeout": call.timeout_s,
        "dendrite": {"hotkey": call.sender, "nonce": call.nonce, "uuid": call.uuid},
        "axon": {"hotkey": call.receiver, "status_code": 200, "status_message": "Success"},
        "image": "",
        "prediction": probability,
        "testnet_label": label,
        **extended,
    }


def _rejection(rejection: CallRejected, call: Call | None, began: float) -> Response:
    headers = answer_headers(call, rejection.status, rejection.reason, began) if call else {}
    return JSONResponse({"message": str(rejection)}, status_code=rejection.status, headers=headers | _CLOSING)


async def _drain(request: Request) -> None:
    """Discard the rest of a body for a moment, since a client that is sending does not read the response."""
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it has been read already
        async with asyncio.timeout(_DRAIN_S):
            async for _ in request.stream():
                pass


async def _not_found(request: Request, error: Exception) -> Response:
    message = f"the routes are {', '.join('/' + route for route in ROUTES)}, with POST"
    return JSONResponse({"message": message}, status_code=getattr(error, "status_code", 404), headers=_CLOSING)
