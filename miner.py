"""A Subnet 72 miner beside a running roadwork-serve: `python miner.py --help` lists what it can be told."""

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from roadwork_serve.errors import RoadworkError
from roadwork_serve.miner.identity import chain_of, hotkey_of
from roadwork_serve.miner.preflight import run_checks
from roadwork_serve.miner.remote import HttpCascade
from roadwork_serve.miner.service import run_miner, wait_for_cascade
from roadwork_serve.miner.settings import MinerSettings, load_settings
from roadwork_serve.ray_environment import RAY

if TYPE_CHECKING:
    from deployments.cascade_client import CascadeClient


async def run(told: MinerSettings) -> int:
    """Until it is stopped; with --check until all has been looked at."""
    cascade = HttpCascade(told.url, os.environ.get("ROADWORK_API_KEY")) if told.url else _by_handle(told.app)
    try:
        if told.check:
            return await run_checks(told, cascade)
        hotkey, chain = hotkey_of(told), chain_of(told)
        await wait_for_cascade(cascade, told.wait_s)
        await run_miner(told, hotkey, cascade, chain)
        return 0
    finally:
        await cascade.aclose()


def _by_handle(app: str) -> "CascadeClient":
    # Ray reads these on import. A driver whose parent is init, as under systemd, it takes for one whose node has died,
    # and ends it without a word as soon as Serve stops; that of the node's process it asks for instead.
    for name, value in (RAY | {"RAY_RAYLET_PID": str(os.getpid())}).items():
        os.environ.setdefault(name, value)
    from deployments.cascade_client import CascadeClient

    return CascadeClient(app)


def main() -> int:
    """2 when it cannot run as told."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return asyncio.run(run(load_settings(sys.argv[1:])))
    except RoadworkError as error:
        print(f"miner: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
