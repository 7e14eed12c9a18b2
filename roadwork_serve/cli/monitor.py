"""`roadwork monitor`: miners on the Bittensor chain. It imports what it needs when it runs."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import console, echo_error, echo_json, foreign

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from roadwork_serve.miner.leaderboard import Leaderboard, NeuronStanding

_TIMEOUT_S = 90.0


def monitor(
    hotkey: Annotated[
        list[str] | None,
        typer.Option(help="Hotkey to show: its ss58 address, or WALLET/HOTKEY. Repeat for more."),
    ] = None,
    network: Annotated[
        str, typer.Option(help="Bittensor network: finney, test, local, or the ws:// or wss:// URL of a node.")
    ] = "finney",
    netuid: Annotated[
        int | None, typer.Option(min=0, help="Number of the subnet. By default 72, and 323 on the test network.")
    ] = None,
    wallet_path: Annotated[Path, typer.Option(help="Folder of the wallets.")] = Path("~/.bittensor/wallets"),
    top: Annotated[int, typer.Option(min=0, help="Number of miners with the highest incentive to show.")] = 5,
    every: Annotated[float | None, typer.Option(min=12, help="Repeat every so many seconds, until Ctrl-C.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a reading instead of a table.")
    ] = False,
) -> None:
    """Show how miners rank on the subnet: incentive, trust, emission, and last update.

    Only the chain is read. The exit code is 1 if a hotkey is not registered.
    """
    import asyncio

    try:
        from roadwork_serve.miner.leaderboard import leaderboard
        from roadwork_serve.miner.settings import MinerSettings
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'roadwork-serve[miner]'") from None

    subnet = MinerSettings.model_construct(network=network, netuid=netuid).subnet
    keys = [_address(each, wallet_path) for each in hotkey or []]

    async def read() -> "Leaderboard":
        from bittensor import Client

        async with asyncio.timeout(_TIMEOUT_S):
            return await leaderboard(lambda: Client(network), subnet, keys, top)

    while True:
        try:
            found = asyncio.run(read())
            code = int(bool(found.missing))
            if as_json:
                echo_json(json.dumps(asdict(found)))
            else:
                _print(console(), found)
        except ConfigError:
            raise
        except Exception as error:  # bittensor and the network raise errors of many kinds
            echo_error(f"{network} cannot be read: {str(error) or type(error).__name__}")
            code = 2
        if every is None:
            raise typer.Exit(code)
        time.sleep(every)


def _address(hotkey: str, wallets: Path) -> str:
    """Return the address of a hotkey that is given as an address or as WALLET/HOTKEY. Raises ConfigError."""
    from roadwork_serve.miner.hotkeys import is_hotkey
    from roadwork_serve.miner.identity import hotkey_of
    from roadwork_serve.miner.settings import MinerSettings

    if hotkey.count("/") == 1:
        return hotkey_of(MinerSettings.model_construct(wallet=hotkey, wallet_path=wallets))
    if not is_hotkey(hotkey):
        raise ConfigError(f"{hotkey} is no hotkey; give its ss58 address, or WALLET/HOTKEY")
    return hotkey


def _print(console: "Console", found: "Leaderboard") -> None:
    price = "" if found.price is None else f", {found.price:.6f} TAO for one alpha"
    console.print(
        f"[bold]{foreign(found.name)}[/], subnet {found.netuid}, block {found.block:,}: {found.paid} of "
        f"{found.neurons} neurons earn incentive{price}."
    )
    if found.top:
        console.print(_table("highest incentive", found.top))
    if found.requested:
        console.print(_table("requested", found.requested))
    for each in found.missing:
        console.print(f"[red]{foreign(each)} is not registered on subnet {found.netuid}.[/]")


def _table(title: str, rows: "Sequence[NeuronStanding]") -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("hotkey", overflow="fold")
    for name in ("UID", "rank", "incentive", "trust", "alpha a tempo", "stake", "updated", "axon"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in rows:
        numbers = (f"{each.incentive:.5f}", f"{each.trust:.3f}", f"{each.emission:,.4f}", f"{each.stake:,.0f}")
        ago = f"{each.updated_s / 3600:.1f} h ago"
        place = "none" if each.rank is None else str(each.rank)
        role = " (validator)" if each.validator_permit else ""
        table.add_row(foreign(each.hotkey) + role, str(each.uid), place, *numbers, ago, foreign(each.axon or "none"))
    return table
