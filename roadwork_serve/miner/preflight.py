"""`--check`: everything a miner needs, looked at one after the other, each told in a line."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

from roadwork_serve.errors import MediaError, RoadworkError
from roadwork_serve.miner.forward import Cascade
from roadwork_serve.miner.identity import chain_of, hotkey_of
from roadwork_serve.miner.service import bind_socket
from roadwork_serve.miner.settings import MinerSettings

_PATIENCE_S = 60.0


async def run_checks(told: MinerSettings, cascade: Cascade) -> int:
    """0 when all is well, 1 when something is not."""

    async def port() -> str:
        with bind_socket(told.host, told.port):
            return f"{told.host}:{told.port} is free"

    async def hotkey() -> str:
        return await asyncio.to_thread(hotkey_of, told)

    async def cascaded() -> str:
        await cascade.ready()
        began = time.monotonic()
        try:
            await cascade.classify(b"no picture", 5000, f"check-{uuid.uuid4().hex[:8]}", "check")
        except MediaError:  # so it was looked at
            pass
        return f"{told.url or told.app} answers after {1000 * (time.monotonic() - began):.0f} ms"

    async def chained() -> str:
        chain = chain_of(told)
        if chain is None:
            return f"none is asked (--offline); {len(told.allow)} hotkeys may ask"
        await chain.look(publish=False)
        if not chain.registered:
            raise RoadworkError(f"the hotkey is not registered on subnet {told.subnet}; register it with btcli")
        published = f"; {chain.to_publish} is to be published" if chain.to_publish else ""
        return f"subnet {told.subnet} has {len(chain.neurons)} neurons, this hotkey among them{published}"

    looks: dict[str, Callable[[], Awaitable[str]]] = {
        "hotkey": hotkey, "port": port, "cascade": cascaded, "chain": chained,
    }  # fmt: skip
    well = True
    for name, look in looks.items():
        try:
            async with asyncio.timeout(_PATIENCE_S):
                print(f"ok      {name}: {await look()}")
        except Exception as error:
            well = False
            print(f"WRONG   {name}: {str(error) or type(error).__name__}")
    return 0 if well else 1
