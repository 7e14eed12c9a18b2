"""The miner as a whole: composes its parts, runs them, and shuts down."""

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

from roadwork_serve.errors import RoadworkError
from roadwork_serve.miner import http_server
from roadwork_serve.miner.addresses import authority, bind_socket, unreachable
from roadwork_serve.miner.axon import Axon, Limits
from roadwork_serve.miner.blacklist import Blacklist, BlacklistConfig
from roadwork_serve.miner.chain import Chain
from roadwork_serve.miner.forward import Cascade, ForwardCache
from roadwork_serve.miner.hotkeys import verify
from roadwork_serve.miner.metagraph import Metagraph
from roadwork_serve.miner.metrics import MinerMetrics
from roadwork_serve.miner.nonces import NonceStore
from roadwork_serve.miner.priority import PrioritySemaphore
from roadwork_serve.miner.protocol import nonce_lifetime_s
from roadwork_serve.miner.settings import MinerSettings

_LOG = logging.getLogger("roadwork.miner")
_RETRY_S = 2.0  # between checks for a cascade that is not ready yet
_DRAIN_S = 10.0  # for calls in flight; a validator waits for nine


async def run_miner(
    settings: MinerSettings,
    hotkey: str,
    cascade: Cascade,
    chain: Chain | None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer validators until SIGTERM or SIGINT, then finish the calls in flight.

    Args:
        settings: Settings of the miner.
        hotkey: ss58 address of this miner.
        cascade: Classifies images.
        chain: The chain; None offline.
        ready: Called once the miner listens.

    Raises:
        ConfigError: The port is in use.
    """
    metrics = MinerMetrics()
    largest = round(settings.max_body_mib * 2**20)
    forward = ForwardCache(cascade, PrioritySemaphore(settings.workers, settings.queue))
    metagraph = (lambda: chain.metagraph) if chain else Metagraph
    axon = Axon(
        hotkey,
        verify,
        Blacklist(blacklist_config(settings), metagraph),
        NonceStore(settings.state / f"nonces-{hotkey}", nonce_lifetime_s(settings.max_clock_ahead_s)),
        forward,
        metrics,
        Limits(
            largest, in_flight=16 * largest, margin_s=settings.margin_s, max_clock_ahead_s=settings.max_clock_ahead_s
        ),
    )
    listening = bind_socket(settings.host, settings.port)
    servers = [(http_server.server(axon.app(), settings.host, settings.port, _DRAIN_S), listening)]
    if settings.metrics_port:
        metrics_server = http_server.server(_metrics_app(metrics, chain), "127.0.0.1", settings.metrics_port, 1.0)
        servers.append((metrics_server, bind_socket("127.0.0.1", settings.metrics_port, "--metrics-port")))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    reading = asyncio.create_task(chain.run(), name="chain") if chain else None
    serving = [asyncio.create_task(_serve(server, bound_to), name="http") for server, bound_to in servers]
    try:
        where = authority(settings.host, settings.port)
        _LOG.info("%s listens on %s%s.", hotkey, where, " (offline)" if chain is None else "")
        if (problem := unreachable(listening, settings.external_ip)) is not None:
            _LOG.warning("%s.", problem)
        ready()
        await _wait_for_stop(stop, serving)
        _LOG.info("Shutting down: new calls are rejected, and calls in flight are finished.")
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
        await forward.aclose()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)


async def wait_for_cascade(cascade: Cascade, wait_s: float) -> None:
    """Wait until the cascade is ready.

    Raises:
        RoadworkError: It is not ready after `wait_s` seconds.
    """
    give_up_at, logged = time.monotonic() + wait_s, False
    while True:
        try:
            return await cascade.ready()
        except RoadworkError as error:
            if time.monotonic() + _RETRY_S > give_up_at:
                raise
            if not logged:
                _LOG.info("Waiting for the cascade for up to %.0f s: %s", wait_s, error)
            logged = True
        await asyncio.sleep(_RETRY_S)


def blacklist_config(settings: MinerSettings) -> BlacklistConfig:
    """Return the rules for callers."""
    return BlacklistConfig(
        allow=frozenset(settings.allow),
        deny=frozenset(settings.deny),
        validator_permit=settings.force_validator_permit,
        min_stake=settings.min_stake,
        per_minute=settings.per_minute,
        max_concurrent=settings.max_concurrent,
        offline=settings.offline,
    )


async def _wait_for_stop(stop: asyncio.Event, serving: list[asyncio.Task[None]]) -> None:
    """Wait for the signal to stop. Raise the error of a server that ends before."""
    waiting = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([waiting, *serving], return_when=asyncio.FIRST_COMPLETED)
        for each in serving:
            if each.done():
                each.result()
    finally:
        waiting.cancel()


async def _serve(server: uvicorn.Server, bound_to: socket.socket) -> None:
    server.capture_signals = nullcontext  # type: ignore[method-assign] - signals stop the miner, not one server
    await server.serve(sockets=[bound_to])


def _metrics_app(metrics: MinerMetrics, chain: Chain | None) -> Starlette:
    async def endpoint(request: Request) -> Response:
        if chain is not None:
            metrics.set_chain(chain.age_s if len(chain.metagraph) else None, chain.registered, chain.failures)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4", headers={"connection": "close"})

    return Starlette(routes=[Route("/metrics", endpoint)])
