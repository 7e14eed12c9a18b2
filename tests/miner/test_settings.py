from pathlib import Path

import pytest
from bittensor_core import decode_ss58, encode_ss58

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.settings import MinerSettings, load_settings
from tests.miner.calls import BANNED, NEIGHBOUR, POOR, VALIDATOR

A, B, C, D = (key.ss58_address for key in (VALIDATOR, POOR, BANNED, NEIGHBOUR))


def test_flags_override_the_environment_which_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "miner.yaml").write_text(f"port: 1\nqueue: 1\nworkers: 1\nallow: [{A}, {B}]\n")
    monkeypatch.setenv("ROADWORK_MINER_PORT", "2")
    monkeypatch.setenv("ROADWORK_MINER_QUEUE", "2")
    monkeypatch.setenv("ROADWORK_MINER_CONFIG", str(file))
    loaded = load_settings(["--port", "3", "--deny", f"{C}, {D}"])
    assert (loaded.port, loaded.queue, loaded.workers) == (3, 2, 1)
    assert (loaded.allow, loaded.deny) == ([A, B], [C, D])


def test_the_subnet_follows_from_the_network() -> None:
    assert load_settings([]).subnet == 72
    assert load_settings(["--network", "test"]).subnet == 323
    assert load_settings(["--network", "ws://127.0.0.1:9944", "--netuid", "2"]).subnet == 2
    with pytest.raises(ConfigError, match="--netuid is needed"):
        _ = load_settings(["--network", "ws://127.0.0.1:9944"]).subnet


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--offline"], "--allow HOTKEY"),
        (["--port", "0"], "port: .*greater than or equal to 1"),
        (["--port", "x"], "port: .*valid integer"),
        (["--wallet", "one"], "WALLET/HOTKEY"),
        (["--allow", A, "--deny", f"{A},{B}"], f"{A} is in --allow and in --deny"),
        (["--allow", encode_ss58(decode_ss58(A), 0)], "is not a hotkey"),
        (["--per-minute", "0.5"], "per_minute"),
        (["--allow", A[:-1]], f"{A[:-1]} is not a hotkey"),
        (["--deny", "me"], "me is not a hotkey"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["--min-stake", "-1"], "min_stake"),
    ],
)
def test_an_invalid_setting_is_a_one_line_error(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["porte: 1", "port: many", "[]", "port: ["])
def test_an_invalid_file_is_rejected(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "miner.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_settings(["--config", str(file)])


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORK_MINER_PROT", "1")
    with pytest.raises(ConfigError, match="ROADWORK_MINER_PROT is not a setting"):
        load_settings([])


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in MinerSettings.model_fields.values())
