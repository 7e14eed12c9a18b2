"""Which hotkey the miner is, and the chain it stands on."""

import os
import secrets
from pathlib import Path
from typing import Any

import bittensor_core  # pyright: ignore - it has no types

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.chain import AxonEndpoint, Chain
from roadwork_serve.miner.settings import MinerSettings


def hotkey_of(told: MinerSettings) -> str:
    """The address, ss58, that calls must be for. Raises ConfigError.

    Of the wallet; offline, where there is none, of a key that is made once and kept in the state's folder.
    """
    file = _hotkey_file(told)
    if file.exists() or not told.offline:
        return (
            str(_wallet(told).hotkeypub.ss58_address) if _public(told).exists() else str(_unlocked(told).ss58_address)
        )
    return _own(told.state / "offline.seed")


def chain_of(told: MinerSettings) -> Chain | None:
    """The chain, unread; None offline. Raises ConfigError for a wallet that is missing or locked, or a bad place."""
    if told.offline:
        return None
    hotkey, wallet, place = hotkey_of(told), _wallet(told), None
    if told.external_ip is not None:
        place = AxonEndpoint(told.external_ip, told.external_port or told.port)
        _unlocked(told)  # it signs; better asked for a password now than when nobody looks

    def connect() -> Any:
        from bittensor import Client

        return Client(told.network)

    file = told.state / f"metagraph-{told.network.rpartition('/')[2].replace(':', '-')}-{told.subnet}.json"
    return Chain(connect, told.subnet, hotkey, file, told.refresh_s, place, wallet)


def _wallet(told: MinerSettings) -> Any:
    from bittensor import Wallet

    return Wallet(told.wallet, path=str(told.wallet_path.expanduser()))


def _unlocked(told: MinerSettings) -> Any:
    """The hotkey's pair. Raises ConfigError where it is missing or locked."""
    if not _hotkey_file(told).exists():
        raise ConfigError(
            f"there is no hotkey at {_hotkey_file(told)}; make one with btcli, name another with --wallet and "
            "--wallet-path, or try it with --offline"
        )
    try:
        return _wallet(told).hotkey
    except Exception as error:  # as many as bittensor has for a wrong password, a broken file, no right to read
        raise ConfigError(
            f"the hotkey at {_hotkey_file(told)} cannot be read: {error or type(error).__name__}"
        ) from None


def _hotkey_file(told: MinerSettings) -> Path:
    name, hotkey = told.wallet.split("/")
    return told.wallet_path.expanduser() / name / "hotkeys" / hotkey


def _public(told: MinerSettings) -> Path:
    return _hotkey_file(told).with_name(f"{_hotkey_file(told).name}pub.txt")


def _own(file: Path) -> str:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(draft, "w") as opened:
            opened.write(secrets.token_hex(32))
    try:
        seed = bytes.fromhex(file.read_text())
        return str(bittensor_core.Keypair.create_from_seed(seed).ss58_address)  # pyright: ignore
    except ValueError as error:
        raise ConfigError(f"{file} is no key: {error}; remove it, and another is made") from None
