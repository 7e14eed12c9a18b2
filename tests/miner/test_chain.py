"""The metagraph, through bittensor's own client and a fake node. The main net was not reached."""

import asyncio
import ipaddress
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from bittensor import Client

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.chain import AxonEndpoint, Chain
from tests.miner.calls import MINER, STRANGER, VALIDATOR
from tests.miner.node import Node

ENDPOINT = AxonEndpoint("203.0.113.7", 8091)


def chain(node: Node, folder: Path, **settings: Any) -> Chain:
    return Chain(lambda: Client(substrate=node), 72, MINER.ss58_address, folder / "metagraph.json", **settings)


async def test_the_metagraph_is_read_and_cached_over_a_restart(tmp_path: Path) -> None:
    node = Node()
    read = chain(node, tmp_path)
    assert (len(read.metagraph), read.registered) == (0, None)
    await read.refresh()
    validator = read.metagraph.by_hotkey[VALIDATOR.ss58_address]
    assert (validator.uid, validator.stake, validator.validator_permit, read.registered) == (0, 5000.0, True, True)
    assert (node.connected, node.closed) == (1, 1)
    node.down = True
    again = chain(node, tmp_path)
    assert (again.metagraph, again.registered, again.stale) == (read.metagraph, True, False)
    with pytest.raises(ConnectionRefusedError):
        await again.refresh()
    assert again.metagraph == read.metagraph


async def test_it_reconnects_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node, waits = Node(), list[float]()
    node.down = True
    read = chain(node, tmp_path, refresh_s=60.0)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        node.down = len(waits) < 6
        if len(waits) == 7:
            raise asyncio.CancelledError

    monkeypatch.setattr("roadwork_serve.miner.chain.asyncio.sleep", sleep)
    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await read.run()
    assert waits == [5, 10, 20, 40, 60, 60, 60]
    assert read.registered and len(read.metagraph) == 2
    assert "nobody listens; no metagraph is stored" in caplog.text


async def test_a_stale_metagraph_is_still_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = chain(Node(), tmp_path, refresh_s=60.0)
    await read.refresh()
    later = time.time() + 181
    monkeypatch.setattr("roadwork_serve.miner.chain.time.time", lambda: later)
    assert read.stale and VALIDATOR.ss58_address in read.metagraph.by_hotkey


async def test_a_hotkey_that_leaves_the_subnet_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    read = chain(node, tmp_path)
    await read.refresh()
    node.hotkeys = [VALIDATOR.ss58_address, STRANGER.ss58_address]
    await read.refresh()
    assert read.registered is False
    assert "is not registered on subnet 72" in caplog.text


async def test_the_endpoint_is_published_only_if_the_chain_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node, wallet, published = Node(), object(), list[Any]()

    class Result:
        def raise_for_failure(self) -> None:
            if len(published) == 1:
                raise ValueError("ServingRateLimitExceeded")

    async def execute(self: Client, intent: Any, by: object) -> Result:
        assert by is wallet
        published.append(intent)
        return Result()

    monkeypatch.setattr(Client, "execute", execute)
    read = chain(node, tmp_path, endpoint=ENDPOINT, wallet=wallet)
    await read.refresh()
    assert read.failures == 0 and "ServingRateLimitExceeded" in caplog.text
    await read.refresh()
    assert [(each.netuid, each.ip, each.port) for each in published] == [(72, "203.0.113.7", 8091)] * 2
    node.axon = {"ip": int(ipaddress.ip_address(ENDPOINT.ip)), "port": ENDPOINT.port, "ip_type": 4}
    await read.refresh()
    assert len(published) == 2


async def test_a_missing_subnet_is_an_error(tmp_path: Path) -> None:
    node = Node()
    node.there = False
    with pytest.raises(ConfigError, match="no subnet 72"):
        await chain(node, tmp_path).refresh()


@pytest.mark.parametrize(
    "spoilt",
    [
        b"", b"[]", b'{"neurons": 1}', b'{"block": 1, "at_s": 1, "neurons": [[1]]}', b"\0" * 4096, b"\xff\xfe",
        b"[" * 100_000,
        b'{"block": Infinity, "at_s": 1, "neurons": []}', b'{"block": 1, "at_s": NaN, "neurons": []}',
        b'{"block": 1, "at_s": 1, "neurons": [[1, "k", NaN, true]]}', b'{"block": 1, "at_s": "x", "neurons": []}',
    ],
)  # fmt: skip
def test_a_damaged_metagraph_is_set_aside_and_told(
    tmp_path: Path, spoilt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metagraph.json").write_bytes(spoilt)
    for _ in range(2):
        assert len(chain(Node(), tmp_path).metagraph) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["metagraph.json.damaged"]
    assert (tmp_path / "metagraph.json.damaged").read_bytes() == spoilt + b"\n"
    assert caplog.text.count("calls are rejected until the chain has been read") == 1


@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0", "::1", "here", ""])
def test_an_unreachable_endpoint_is_not_published(ip: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        AxonEndpoint(ip, 8091)


async def test_refresh_without_publish_only_reports_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "execute", lambda *_: pytest.fail("it signed something"))
    read = chain(Node(), tmp_path, endpoint=ENDPOINT, wallet=object())
    await read.refresh(publish=False)
    assert read.to_publish == ENDPOINT


async def test_a_read_only_folder_is_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roadwork_serve.miner.chain._store", full)
    read = chain(Node(), tmp_path)
    await read.refresh()
    assert read.registered and read.failures == 0 and len(read.metagraph) == 2
    assert "Cannot store the metagraph" in caplog.text


def test_an_endpoint_is_formatted_as_the_chain_does() -> None:
    assert str(AxonEndpoint("2001:db8:0:0:0:0:0:7", 8091)) == "[2001:db8::7]:8091"
