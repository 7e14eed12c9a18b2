from pathlib import Path

import pytest
from bittensor_core import decode_ss58, encode_ss58

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.settings import MinerSettings, load_settings
from tests.miner.calls import BANNED, NEIGHBOUR, POOR, VALIDATOR

A, B, C, D = (key.ss58_address for key in (VALIDATOR, POOR, BANNED, NEIGHBOUR))


def test_flags_go_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "miner.yaml").write_text(f"port: 1\nqueue: 1\nworkers: 1\nallow: [{A}, {B}]\n")
    monkeypatch.setenv("ROADWORK_MINER_PORT", "2")
    monkeypatch.setenv("ROADWORK_MINER_QUEUE", "2")
    monkeypatch.setenv("ROADWORK_MINER_CONFIG", str(file))
    told = load_settings(["--port", "3", "--deny", f"{C}, {D}"])
    assert (told.port, told.queue, told.workers) == (3, 2, 1)
    assert (told.allow, told.deny) == ([A, B], [C, D])


def test_the_subnet_goes_by_the_network() -> None:
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
def test_what_makes_no_sense_is_said_in_a_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        load_settings(flags)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["porte: 1", "port: many", "[]", "port: ["])
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "miner.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_settings(["--config", str(file)])


def test_a_misspelt_variable_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORK_MINER_PROT", "1")
    with pytest.raises(ConfigError, match="ROADWORK_MINER_PROT is not a setting"):
        load_settings([])


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in MinerSettings.model_fields.values())
