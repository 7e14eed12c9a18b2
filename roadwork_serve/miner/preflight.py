"""`--check`: tests everything a miner needs, and prints a line for each."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

from roadwork_serve.errors import MediaError, RoadworkError
from roadwork_serve.miner.addresses import authority, bind_socket, unreachable
from roadwork_serve.miner.forward import Cascade
from roadwork_serve.miner.identity import chain_of, hotkey_of
from roadwork_serve.miner.settings import MinerSettings
from roadwork_serve.printable import printable
from roadwork_serve.terminal import echo

_TIMEOUT_S = 60.0


async def run_checks(settings: MinerSettings, cascade: Cascade) -> int:
    """Run all checks. Return 0 if all succeed, else 1."""

    async def check_port() -> str:
        with bind_socket(settings.host, settings.port) as listening:
            problem = unreachable(listening, settings.external_ip)
            return f"{authority(settings.host, settings.port)} is free" + (f"; warning: {problem}" if problem else "")

    async def check_hotkey() -> str:
        return await asyncio.to_thread(hotkey_of, settings)

    async def check_cascade() -> str:
        await cascade.ready()
        began = time.monotonic()
        try:
            await cascade.classify(b"not an image", 5000, f"check-{uuid.uuid4().hex[:8]}", "check")
        except MediaError:  # it has been decoded, so the cascade works
            pass
        return f"{settings.server or settings.app} answers after {1000 * (time.monotonic() - began):.0f} ms"

    async def check_chain() -> str:
        chain = chain_of(settings)
        if chain is None:
            return f"not used (--offline); {len(settings.allow)} hotkeys may call"
        await chain.refresh(publish=False)
        if not chain.registered:
            raise RoadworkError(f"the hotkey is not registered on subnet {settings.subnet}; register it with btcli")
        published = f"; {chain.to_publish} will be published" if chain.to_publish else ""
        return f"subnet {settings.subnet} has {len(chain.metagraph)} neurons, this hotkey among them{published}"

    checks: dict[str, Callable[[], Awaitable[str]]] = {
        "hotkey": check_hotkey, "port": check_port, "cascade": check_cascade, "chain": check_chain,
    }  # fmt: skip
    passed = True
    for name, check in checks.items():
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                echo(printable(f"ok      {name}: {await check()}"))
        except Exception as error:
            passed = False
            echo(printable(f"FAILED  {name}: {str(error) or type(error).__name__}"))
    return 0 if passed else 1
