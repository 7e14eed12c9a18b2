"""A Subnet 72 miner beside a running roadwork-serve: `python miner.py --help` lists its settings."""

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
from roadwork_serve.miner.state_files import make_state_folder
from roadwork_serve.printable import make_logs_printable
from roadwork_serve.ray_environment import ray_environment
from roadwork_serve.terminal import echo_error

if TYPE_CHECKING:
    from deployments.cascade_client import CascadeClient


async def run(settings: MinerSettings) -> int:
    """Run the miner until it is stopped, or the checks of --check. Return the exit code."""
    cascade = HttpCascade(settings.server) if settings.server else _by_handle(settings.app)
    try:
        if settings.check:
            return await run_checks(settings, cascade)
        make_state_folder(settings.state)
        hotkey, chain = hotkey_of(settings), chain_of(settings)
        await wait_for_cascade(cascade, settings.wait_s)
        await run_miner(settings, hotkey, cascade, chain)
        return 0
    finally:
        await cascade.aclose()


def _by_handle(app: str) -> "CascadeClient":
    # Ray reads these on import. It assumes that the node of a driver whose parent is init, as under systemd, has died,
    # and ends it silently when Serve stops, unless RAY_RAYLET_PID names another process.
    for name, value in (ray_environment() | {"RAY_RAYLET_PID": str(os.getpid())}).items():
        os.environ.setdefault(name, value)
    from deployments.cascade_client import CascadeClient

    return CascadeClient(app)


def main() -> int:
    """Run the command. Return 2 if a setting is wrong or the miner cannot start."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    make_logs_printable(logging.getLogger())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return asyncio.run(run(load_settings(sys.argv[1:])))
    except RoadworkError as error:
        echo_error(f"miner: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
