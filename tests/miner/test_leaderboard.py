"""The leaderboard of miners, through bittensor's own client and a fake node."""

import json
from typing import Any

import pytest
from bittensor import Client
from typer.testing import CliRunner, Result

from roadwork_serve.cli.main import app
from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.leaderboard import Leaderboard, leaderboard
from tests.miner.calls import MINER, POOR, STRANGER, VALIDATOR
from tests.miner.node import Node

VALIDATOR_KEY, MINER_KEY, POOR_KEY = (key.ss58_address for key in (VALIDATOR, MINER, POOR))


@pytest.fixture
def node() -> Node:
    """Return a node on which the miner earns three quarters of the miners' pay and a poor one the rest."""
    node = Node()
    node.hotkeys = [VALIDATOR_KEY, POOR_KEY, MINER_KEY]
    node.more = {
        "incentives": [0, 16384, 49151],
        "trust": [65535, 32768, 65535],
        "consensus": [0, 1, 2],
        "emission": [10**9, 2 * 10**9, 6 * 10**9],
        "last_update": [100, 40, 70],
    }
    return node


async def read(node: Node, *hotkeys: str, top: int = 5) -> Leaderboard:
    return await leaderboard(lambda: Client(substrate=node), 72, hotkeys, top)


async def test_ranks_follow_incentive_and_neurons_without_any_have_no_rank(node: Node) -> None:
    found = await read(node, VALIDATOR_KEY, MINER_KEY)
    assert [(each.hotkey, each.rank) for each in found.top] == [(MINER_KEY, 1), (POOR_KEY, 2)]
    validator, miner = found.requested
    assert (validator.rank, validator.validator_permit, validator.stake) == (None, True, 5000.0)
    assert (miner.uid, miner.emission, miner.updated_s) == (2, 6.0, 360.0)
    assert miner.incentive == pytest.approx(0.75, abs=1e-3) and miner.trust == pytest.approx(1.0)
    assert (found.neurons, found.paid, found.block, found.tempo) == (3, 2, 100, 360)


async def test_the_leaderboard_is_limited_and_lists_unregistered_hotkeys(node: Node) -> None:
    found = await read(node, STRANGER.ss58_address, MINER_KEY, top=1)
    assert [each.hotkey for each in found.top] == [MINER_KEY]
    assert [each.hotkey for each in found.requested] == [MINER_KEY]
    assert found.missing == (STRANGER.ss58_address,)


async def test_a_missing_subnet_is_an_error(node: Node) -> None:
    node.there = False
    with pytest.raises(ConfigError, match="no subnet 72"):
        await read(node)


@pytest.fixture
def client(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of networks that were connected to."""
    asked: list[str] = []

    def connect(network: str) -> Any:
        asked.append(network)
        return Client(substrate=node)

    monkeypatch.setattr("bittensor.Client", connect)
    monkeypatch.setenv("COLUMNS", "200")
    return asked


def monitor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["monitor", *arguments])


def test_monitor_prints_a_leaderboard_and_the_rank_of_the_hotkey(client: list[str]) -> None:
    result = monitor("--hotkey", MINER_KEY, "--top", "1")
    assert result.exit_code == 0, result.output
    assert "2 of 3 neurons earn incentive" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(MINER_KEY)]
    assert len(rows) == 2 and rows[0] == rows[1] and rows[0][1:3] == ["2", "1"]
    assert client == ["finney"]


def test_monitor_prints_json_and_exits_with_1_for_an_unregistered_hotkey(client: list[str]) -> None:
    result = monitor("--hotkey", STRANGER.ss58_address, "--json", "--network", "ws://127.0.0.1:9944", "--netuid", "72")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert (shown["missing"], shown["top"][0]["hotkey"]) == ([STRANGER.ss58_address], MINER_KEY)
    assert client == ["ws://127.0.0.1:9944"]


def test_monitor_prints_a_one_line_error_if_the_chain_is_unreachable(client: list[str], node: Node) -> None:
    node.down = True
    result = monitor()
    assert result.exit_code == 2
    assert result.stderr.strip() == "finney cannot be read: nobody listens"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--hotkey", "me"], "me is no hotkey"), (["--network", "ws://127.0.0.1:9944"], "--netuid is needed")],
)
def test_monitor_rejects_invalid_options(client: list[str], arguments: list[str], message: str) -> None:
    result = monitor(*arguments)
    assert result.exit_code == 2 and message in result.stderr and not client
