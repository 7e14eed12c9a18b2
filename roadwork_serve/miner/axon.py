"""The axon: what validators reach over HTTP.

A call is judged by its headers before a byte of its body is read: is it well formed, for this hotkey, fresh, from
somebody who may ask, rightly signed, and new? Only then is the body read, under a bound on its size and by the
validator's deadline, and the picture in it shown to the cascade.
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

from roadwork_serve.errors import DeadlineExceeded, MediaError, NoOpinion, Overloaded, RoadworkError
from roadwork_serve.miner.blacklist import Blacklist
from roadwork_serve.miner.forward import ForwardCache
from roadwork_serve.miner.metrics import MinerMetrics
from roadwork_serve.miner.nonces import Nonces
from roadwork_serve.miner.protocol import ROUTES, Call, Refused, answer_headers, prediction

_LOG = logging.getLogger("roadwork.miner")
_LONGEST_S = 9.0  # a validator of the subnet waits no longer, whatever its header says
_INLINE = 256 * 1024  # bytes of a body; more are parsed in a thread
_STRUCTURE = 4096  # brackets, commas and colons in a body; a synapse has a few dozen, and parsing holds up all others
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_DRAIN_S = 0.5
_CLOSING = {"connection": "close"}  # a call has a connection of its own, so that its headers can be given a time
NO_ANSWER = -1.0
Verify = Callable[[bytes, bytes, str], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """max_body: bytes; in_work: of all bodies.

    margin_s: kept back of the validator's time, for the way there and back.
    """

    max_body: int = 16 * 2**20
    in_flight: int = 256 * 2**20
    margin_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """What a body holds. label: 1 or 0, the truth, which the test net tells; -1 elsewhere."""

    picture: bytes
    label: int


class Axon:
    """hotkey: this miner's, ss58. verify: whether a message has this signature by this hotkey."""

    def __init__(
        self,
        hotkey: str,
        verify: Verify,
        guard: Blacklist,
        nonces: Nonces,
        answers: ForwardCache,
        counts: MinerMetrics,
        limits: Limits = Limits(),
    ) -> None:
        self.hotkey = hotkey
        self._verify = verify
        self._guard = guard
        self._nonces = nonces
        self._answers = answers
        self._counts = counts
        self._limits = limits
        self._held = 0  # bytes of bodies

    def app(self) -> Starlette:
        """The routes that validators know."""
        app = Starlette(
            routes=[Route(f"/{route}", self._route(route), methods=["POST"]) for route in ROUTES],
            exception_handlers={404: _not_there, 405: _not_there},
        )
        app.router.redirect_slashes = False
        return app

    def _route(self, route: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            began = time.monotonic()
            call: Call | None = None
            try:
                call = Call.read(request.headers.raw, route)
                stake = self._authorised(call, request)
                async with self._guard.call(call.sender):
                    self._nonces.use(call)
                    told = await self._answered(call, stake, request, began)
            except Refused as refusal:
                self._counts.refused(refusal.reason)
                await _drained(request)
                return _refusal(refusal, call, began)
            except ClientDisconnect:
                self._counts.refused("hung-up")
                return _refusal(Refused(408, "hung-up", "the caller hung up"), call, began)
            except Exception:
                _LOG.exception("A call ends in what it should not.")
                self._counts.refused("internal")
                await _drained(request)
                return _refusal(Refused(503, "internal", "this miner cannot answer that at the moment"), call, began)
            self._counts.took(time.monotonic() - began)
            headers = answer_headers(call, 200, "Success", began) | _CLOSING
            return JSONResponse(_synapse(call, told), headers=headers)

        return answer

    def _authorised(self, call: Call, request: Request) -> float:
        """The caller's stake. Raises Refused; nothing of the body has been read."""
        if call.receiver != self.hotkey:
            raise Refused(401, "receiver", "the call is for another hotkey")
        call.check_fresh(time.time_ns())
        stake = self._guard.admit(call.sender)
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._limits.max_body:
            raise Refused(413, "size", f"a body may have {self._limits.max_body} bytes")
        if not self._verify(call.signed, call.signature, call.sender):
            raise Refused(401, "signature", "the signature is not the sender's over this call")
        self._nonces.check(call)
        return stake

    async def _answered(self, call: Call, stake: float, request: Request, began: float) -> tuple[float, int]:
        """The prediction, and the label that came with the question. Raises Refused and ClientDisconnect."""
        deadline_s = began + min(call.timeout_s, _LONGEST_S) - self._limits.margin_s
        name, label = f"axon-{call.uuid[:36]}-{call.nonce}", -1
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                question = await self._question(request)
                label = question.label
                verdict, known = await self._answers.of(question.picture, deadline_s, name, call.sender, stake)
        except (TimeoutError, DeadlineExceeded):
            raise Refused(408, "deadline", "the time was over before there was an answer") from None
        except MediaError as error:
            raise Refused(422, error.slug, str(error)) from None
        except NoOpinion as error:
            _LOG.warning("%s: %s", name, error)
            self._counts.silent()
            return NO_ANSWER, label
        except Overloaded as error:
            raise Refused(503, error.slug, str(error)) from None
        except RoadworkError as error:
            _LOG.warning("%s: %s", name, error)
            raise Refused(503, error.slug, "the cascade cannot be reached at the moment; try again") from None
        said = prediction(verdict.probability, verdict.label == "roadwork")
        self._counts.answered(verdict.exit.stage or "none", known, said, label)
        return said, label

    async def _question(self, request: Request) -> Question:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._held += len(chunk)
                if len(body) > self._limits.max_body:
                    raise Refused(413, "size", f"a body may have {self._limits.max_body} bytes")
                if self._held > self._limits.in_flight:
                    raise Refused(503, "busy", "too many large calls are being read; come back in a second")
            return parse(bytes(body)) if len(body) <= _INLINE else await asyncio.to_thread(parse, bytes(body))
        finally:
            self._held -= len(body)


def parse(body: bytes) -> Question:
    """A synapse's JSON. Raises Refused, 422, naming what to mend."""
    if sum(map(body.count, (b"[", b"{", b",", b":"))) > _STRUCTURE:
        raise Refused(422, "json", "the body is no synapse: it has too many fields")
    try:
        synapse: object = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(422, "json", "the body is no JSON; send the synapse as the Dendrite does") from None
    if not isinstance(synapse, dict):
        raise Refused(422, "json", "the body is no JSON object")
    fields: dict[str, object] = {str(name): value for name, value in synapse.items()}  # pyright: ignore
    image, label = fields.get("image"), fields.get("testnet_label", -1)
    if not isinstance(image, str) or not image:
        raise Refused(422, "image", "image is no text; send the JPEG in base64")
    if isinstance(label, bool) or not isinstance(label, int):
        raise Refused(422, "label", "testnet_label is no whole number")
    try:
        picture = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "base64", "image is no standard base64") from None
    if not picture.startswith(_PICTURES) and (picture[:4], picture[8:12]) != (b"RIFF", b"WEBP"):
        raise Refused(422, "unsupported-media", "image is no JPEG, PNG or WebP")
    return Question(picture, label if label in (0, 1) else -1)


def _synapse(call: Call, told: tuple[float, int]) -> dict[str, Any]:
    """The synapse as a Dendrite takes it back, with the picture left out: it has that already."""
    extended = {"model_url": ""} if call.name == "ExtendedImageSynapse" else {}
    return {
        "name": call.name,
        "timeout": call.timeout_s,
        "dendrite": {"hotkey": call.sender, "nonce": call.nonce, "uuid": call.uuid},
        "axon": {"hotkey": call.receiver, "status_code": 200, "status_message": "Success"},
        "image": "",
        "prediction": told[0],
        "testnet_label": told[1],
        **extended,
    }


def _refusal(refusal: Refused, call: Call | None, began: float) -> Response:
    headers = answer_headers(call, refusal.status, refusal.reason, began) if call else {}
    return JSONResponse({"message": str(refusal)}, status_code=refusal.status, headers=headers | _CLOSING)


async def _drained(request: Request) -> None:
    """Throw away what still comes of a body, for a moment: who sends does not read what he is told."""
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the last: it has been read
        async with asyncio.timeout(_DRAIN_S):
            async for _ in request.stream():
                pass


async def _not_there(request: Request, error: Exception) -> Response:
    message = f"there are the routes {', '.join('/' + route for route in ROUTES)}, by POST"
    return JSONResponse({"message": message}, status_code=getattr(error, "status_code", 404), headers=_CLOSING)
