"""Three miners with a shared server: a killed miner, a restarted and a killed server: `make test-ops`."""

import os
import signal

import httpx
import pytest

from tests.ops.three import HOTKEYS, NEEDS, Miners, eventually

pytestmark = NEEDS


def replaced(before: dict[str, int], miners: Miners) -> set[str]:
    """Return the names of the processes that have been replaced."""
    after = miners.pids()
    return {name for name in before if before[name] != after[name]}


def test_three_miners_answer_once_their_shared_server_is_up(miners: Miners) -> None:
    assert set(miners.processes()) == {"roadwork-serve", *(f"roadwork-{hotkey}" for hotkey in HOTKEYS)}
    assert len({miners.hotkey(number) for number in range(3)}) == 3
    metrics = httpx.get(f"http://127.0.0.1:{miners.first_port + 1001}/metrics").text
    assert 'roadwork_miner_answers_total{exit="backbone"}' in metrics


def test_the_others_answer_while_a_killed_miner_restarts(miners: Miners) -> None:
    before = miners.pids()
    os.kill(before["roadwork-two"], signal.SIGKILL)
    assert (miners.ask(0), miners.ask(2)) == (200, 200)
    eventually(lambda: miners.ask(1) == 200, 60, "the second one answers again", miners)
    assert replaced(before, miners) == {"roadwork-two"}, miners.logs()


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_all_answer_again_when_the_server_is_back(miners: Miners, how: str) -> None:
    """A few miners are restarted: Ray may end one that is about to connect, and PM2 restarts it."""
    before = miners.pids()
    if how == "restart":
        miners.pm2("restart", "roadwork-serve")
    else:
        os.kill(before["roadwork-serve"], signal.SIGKILL)
    eventually(lambda: miners.pids()["roadwork-serve"] not in (0, before["roadwork-serve"]), 60, "it is back", miners)
    eventually(miners.all_answer, 120, "all three answer again", miners)
    assert len(replaced(before, miners)) <= 2, miners.logs()
