"""The miner as a whole: what it is made of, what runs beside it, and how it ends."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.miner import http_server as listen
from roadwork_serve.miner.axon import Axon, Limits
from roadwork_serve.miner.blacklist import Blacklist, BlacklistConfig, PrioritySemaphore
from roadwork_serve.miner.chain import Chain
from roadwork_serve.miner.forward import Cascade, ForwardCache
from roadwork_serve.miner.hotkeys import verify
from roadwork_serve.miner.metagraph import Metagraph
from roadwork_serve.miner.metrics import MinerMetrics
from roadwork_serve.miner.nonces import Nonces
from roadwork_serve.miner.settings import MinerSettings

_LOG = logging.getLogger("roadwork.miner")
_AGAIN_S = 2.0  # between looks for a cascade that is not there yet
_DRAIN_S = 10.0  # for calls in work; a validator waits for nine


async def run_miner(
    told: MinerSettings, hotkey: str, cascade: Cascade, chain: Chain | None, ready: Callable[[], None] = lambda: None
) -> None:
    """Answer validators until SIGTERM or SIGINT, then finish what is in work.

    chain: None offline. ready: called once it listens. Raises ConfigError for a port that is taken.
    """
    counts = MinerMetrics()
    largest = round(told.max_body_mib * 2**20)
    answers = ForwardCache(cascade, PrioritySemaphore(told.workers, told.queue))
    neurons = (lambda: chain.neurons) if chain else Metagraph
    axon = Axon(
        hotkey,
        verify,
        Blacklist(blacklist_config(told), neurons),
        Nonces(told.state / f"nonces-{hotkey}"),
        answers,
        counts,
        Limits(largest, in_flight=16 * largest, margin_s=told.margin_s),
    )
    servers = [(listen.server(axon.app(), told.host, told.port, _DRAIN_S), bind_socket(told.host, told.port))]
    if told.metrics_port:
        metrics = listen.server(_metrics(counts, chain), "127.0.0.1", told.metrics_port, 1.0)
        servers.append((metrics, bind_socket("127.0.0.1", told.metrics_port, "--metrics-port")))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    reading = asyncio.create_task(chain.run(), name="chain") if chain else None
    serving = [asyncio.create_task(_serve(server, bound_to), name="http") for server, bound_to in servers]
    try:
        _LOG.info(f"{hotkey} listens on {told.host}:{told.port}{' without a chain' if chain is None else ''}.")
        if told.external_ip and told.host in ("127.0.0.1", "::1", "localhost"):
            _LOG.warning(f"{told.external_ip} is published, and only {told.host} is listened on: set --host 0.0.0.0.")
        ready()
        await _first(stop, serving)
        _LOG.info("Told to stop: no call is taken any more, those in work are finished.")
    finally:
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*serving, return_exceptions=True)
        for _, bound_to in servers:
            bound_to.close()
        if reading:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        await answers.aclose()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)


async def wait_for_cascade(cascade: Cascade, wait_s: float) -> None:
    """Return once the cascade is there. Raises what it says when it is not there after so long."""
    give_up_at, told = time.monotonic() + wait_s, False
    while True:
        try:
            return await cascade.ready()
        except RoadworkError as error:
            if time.monotonic() + _AGAIN_S > give_up_at:
                raise
            if not told:
                _LOG.info(f"Waiting for at most {wait_s:.0f} s: {error}")
            told = True
        await asyncio.sleep(_AGAIN_S)


def blacklist_config(told: MinerSettings) -> BlacklistConfig:
    """Who may ask."""
    return BlacklistConfig(
        allow=frozenset(told.allow),
        deny=frozenset(told.deny),
        validator_permit=told.force_validator_permit,
        min_stake=told.min_stake,
        per_minute=told.per_minute,
        max_concurrent=told.max_concurrent,
        offline=told.offline,
    )


def bind_socket(host: str, port: int, flag: str = "--port") -> socket.socket:
    """A socket that listens there. Raises ConfigError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}; free it, or choose another with {flag}") from None


async def _first(stop: asyncio.Event, serving: list[asyncio.Task[None]]) -> None:
    """Until it is told to stop. Raises what ends a server before that."""
    waiting = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([waiting, *serving], return_when=asyncio.FIRST_COMPLETED)
        for each in serving:
            if each.done():
                each.result()
    finally:
        waiting.cancel()


async def _serve(server: uvicorn.Server, bound_to: socket.socket) -> None:
    server.capture_signals = nullcontext  # type: ignore[method-assign] - they stop the whole, not one server
    await server.serve(sockets=[bound_to])


def _metrics(counts: MinerMetrics, chain: Chain | None) -> Starlette:
    async def told(request: Request) -> Response:
        if chain is not None:
            counts.chain(chain.age_s if len(chain.neurons) else None, chain.registered, chain.failures)
        return Response(counts.text(), media_type="text/plain; version=0.0.4", headers={"connection": "close"})

    return Starlette(routes=[Route("/metrics", told)])
