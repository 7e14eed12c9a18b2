import stat
from pathlib import Path

import pytest
from bittensor import Wallet

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.identity import chain_of, hotkey_of
from roadwork_serve.miner.settings import MinerSettings, load_settings
from tests.miner.calls import VALIDATOR


def make_settings(folder: Path, *flags: str) -> MinerSettings:
    return load_settings(
        ["--wallet-path", str(folder / "wallets"), "--wallet", "cold/hot", "--state", str(folder), *flags]
    )


def wallet(folder: Path) -> Wallet:
    made = Wallet("cold", "hot", str(folder / "wallets"))
    made.create_new_hotkey(use_password=False, suppress=True)
    return made


def test_offline_a_private_key_is_created_once(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "--offline", "--allow", VALIDATOR.ss58_address)
    hotkey = hotkey_of(settings)
    assert hotkey.startswith("5") and len(hotkey) == 48
    assert hotkey_of(settings) == hotkey
    assert stat.S_IMODE((tmp_path / "offline.seed").stat().st_mode) == 0o600
    assert chain_of(settings) is None


def test_the_wallets_hotkey_takes_precedence(tmp_path: Path) -> None:
    made = wallet(tmp_path)
    for flags in ([], ["--offline", "--allow", VALIDATOR.ss58_address]):
        assert hotkey_of(make_settings(tmp_path, *flags)) == made.hotkey.ss58_address
    assert not (tmp_path / "offline.seed").exists()


def test_a_missing_wallet_is_an_error_with_instructions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hotkeys/hot; create one with btcli"):
        hotkey_of(make_settings(tmp_path))
    with pytest.raises(ConfigError, match="create one with btcli"):
        chain_of(make_settings(tmp_path, "--external-ip", "203.0.113.7"))


def test_the_error_of_a_broken_key_does_not_reveal_it(tmp_path: Path) -> None:
    (tmp_path / "wallets/cold/hotkeys").mkdir(parents=True)
    (tmp_path / "wallets/cold/hotkeys/hot").write_text("secret seed")
    with pytest.raises(ConfigError, match="cannot be read") as error:
        hotkey_of(make_settings(tmp_path))
    assert "secret" not in str(error.value)


def test_each_network_has_its_own_chain_and_cached_metagraph(tmp_path: Path) -> None:
    made = wallet(tmp_path)
    chain = chain_of(make_settings(tmp_path, "--network", "test", "--external-ip", "203.0.113.7"))
    assert chain is not None
    assert (chain._netuid, chain._hotkey, str(chain._endpoint)) == (323, made.hotkey.ss58_address, "203.0.113.7:8091")
    assert chain._file.name == "metagraph-test-323.json"
    with pytest.raises(ConfigError, match="cannot be reached from other machines"):
        chain_of(make_settings(tmp_path, "--external-ip", "127.0.0.1"))


@pytest.mark.parametrize("spoilt", [b"", b"\0" * 64, b"\xff\xfe", b"ab", b"zz" * 32, b"ab" * 31])
def test_a_damaged_offline_key_is_set_aside_and_made_anew(
    tmp_path: Path, spoilt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(tmp_path, "--offline", "--allow", VALIDATOR.ss58_address)
    before = hotkey_of(settings)
    (tmp_path / "offline.seed").write_bytes(spoilt)
    hotkey = hotkey_of(settings)
    assert hotkey.startswith("5") and hotkey != before and hotkey_of(settings) == hotkey
    assert (tmp_path / "offline.seed.damaged").read_bytes() == spoilt + b"\n"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("offline*")} == {0o600}
    assert "new offline hotkey" in caplog.text


def test_a_state_folder_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = make_settings(tmp_path, "--offline", "--allow", VALIDATOR.ss58_address, "--state", f"{tmp_path}/file/x")
    with pytest.raises(ConfigError, match="name another folder with --state"):
        hotkey_of(settings)
