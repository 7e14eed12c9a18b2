"""The miner's hotkey and its connection to the chain."""

import secrets
from pathlib import Path
from typing import Any

import bittensor_core  # pyright: ignore - it has no types

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.chain import AxonEndpoint, Chain
from roadwork_serve.miner.settings import MinerSettings
from roadwork_serve.miner.state_files import make_state_folder, read_state, set_aside

_SEED_BYTES = 32


def hotkey_of(settings: MinerSettings) -> str:
    """Return the ss58 address of this miner.

    It is that of the wallet. Offline and without a wallet it is that of a key in the state folder, which is created
    once.

    Raises:
        ConfigError: The hotkey is missing or cannot be read.
    """
    file = _hotkey_file(settings)
    if file.exists() or not settings.offline:
        return (
            str(_wallet(settings).hotkeypub.ss58_address)
            if _public(settings).exists()
            else str(_unlocked(settings).ss58_address)
        )
    return _offline_hotkey(settings.state / "offline.seed")


def chain_of(settings: MinerSettings) -> Chain | None:
    """Return the chain, which has not been read yet; None offline.

    Raises:
        ConfigError: The wallet is missing or locked, or the address to publish is invalid.
    """
    if settings.offline:
        return None
    hotkey, wallet, endpoint = hotkey_of(settings), _wallet(settings), None
    if settings.external_ip is not None:
        endpoint = AxonEndpoint(settings.external_ip, settings.external_port or settings.port)
        _unlocked(settings)  # it signs later; ask for the password now

    def connect() -> Any:
        from bittensor import Client

        return Client(settings.network)

    file = settings.state / f"metagraph-{settings.network.rpartition('/')[2].replace(':', '-')}-{settings.subnet}.json"
    return Chain(connect, settings.subnet, hotkey, file, settings.refresh_s, endpoint, wallet)


def _wallet(settings: MinerSettings) -> Any:
    from bittensor import Wallet

    return Wallet(settings.wallet, path=str(settings.wallet_path.expanduser()))


def _unlocked(settings: MinerSettings) -> Any:
    """Return the hotkey's key pair.

    Raises:
        ConfigError: It is missing or locked.
    """
    if not _hotkey_file(settings).exists():
        raise ConfigError(
            f"there is no hotkey at {_hotkey_file(settings)}; create one with btcli, name another with --wallet and "
            "--wallet-path, or use --offline"
        )
    try:
        return _wallet(settings).hotkey
    except Exception as error:  # bittensor has many errors for a wrong password, a damaged file, missing permissions
        raise ConfigError(
            f"the hotkey at {_hotkey_file(settings)} cannot be read: {error or type(error).__name__}"
        ) from None


def _hotkey_file(settings: MinerSettings) -> Path:
    name, hotkey = settings.wallet.split("/")
    return settings.wallet_path.expanduser() / name / "hotkeys" / hotkey


def _public(settings: MinerSettings) -> Path:
    return _hotkey_file(settings).with_name(f"{_hotkey_file(settings).name}pub.txt")


def _offline_hotkey(file: Path) -> str:
    """Return the address of the key in a file. Without a file, or with a damaged one, make another key."""
    make_state_folder(file.parent)
    if (stored := read_state(file)) is not None:
        try:
            return _address_of(stored)
        except ValueError:
            set_aside(file, stored, "this miner has a new offline hotkey, by which callers must address it")
    with replace_file(file, mode=0o600, sync=True) as draft:
        draft.write_text(secrets.token_hex(_SEED_BYTES))
    return _address_of(file.read_bytes())


def _address_of(stored: bytes) -> str:
    """Return the ss58 address of a stored seed. Raises ValueError if it is none."""
    seed = bytes.fromhex(stored.decode("ascii"))
    if len(seed) != _SEED_BYTES:
        raise ValueError(f"{len(seed)} bytes")
    return str(bittensor_core.Keypair.create_from_seed(seed).ss58_address)  # pyright: ignore
