"""A miner in its own process, configured by flags, with a cascade over HTTP."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from roadwork_serve.errors import ConfigError, StageLost
from roadwork_serve.miner.addresses import bind_socket
from roadwork_serve.miner.service import run_miner, wait_for_cascade
from roadwork_serve.miner.settings import MinerSettings, load_settings
from roadwork_serve.ports import free_port
from tests.miner.calls import MINER, PICTURE, STRANGER, VALIDATOR, FakeCascade, body, headers


def make_settings(folder: Path, *flags: str) -> MinerSettings:
    return load_settings(["--offline", "--allow", VALIDATOR.ss58_address, "--state", str(folder), *flags])


@asynccontextmanager
async def running(
    settings: MinerSettings, cascade: FakeCascade
) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.Task[None]]]:
    up = asyncio.Event()
    task = asyncio.create_task(run_miner(settings, MINER.ss58_address, cascade, None, up.set))
    try:
        await asyncio.wait_for(up.wait(), 10)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}") as client:
            yield client, task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 15)


async def test_it_answers_allowed_hotkeys_and_finishes_calls_on_sigterm(tmp_path: Path) -> None:
    cascade = FakeCascade()
    settings = make_settings(tmp_path, "--port", str(free_port()), "--metrics-port", str(free_port()))
    async with running(settings, cascade) as (client, task):
        reply = await client.post("/ImageSynapse", headers=headers(), content=body())
        assert reply.status_code == 200, reply.text
        assert reply.json()["prediction"] == 0.9
        assert (await client.post("/ImageSynapse", headers=headers(key=STRANGER), content=body())).status_code == 403
        metrics = (await client.get(f"http://127.0.0.1:{settings.metrics_port}/metrics")).text
        assert 'roadwork_miner_rejected_total{reason="unrecognized"} 1.0' in metrics
        cascade.gate, cascade.begun = asyncio.Event(), asyncio.Event()
        last = asyncio.create_task(client.post("/ImageSynapse", headers=headers(), content=body(PICTURE + b" another")))
        await asyncio.wait_for(cascade.begun.wait(), 5)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):
            while True:
                with suppress(httpx.ReadError, httpx.RemoteProtocolError):  # a connection it closes as a call goes out
                    await client.post("/ImageSynapse", headers=headers(key=STRANGER), content=body())
        cascade.gate.set()
        assert (await last).json()["prediction"] == 0.9
        await asyncio.wait_for(task, 10)


async def test_a_call_answered_before_a_restart_is_not_answered_again(tmp_path: Path) -> None:
    settings, call = make_settings(tmp_path, "--port", str(free_port())), headers()
    for status in (200, 401):
        async with running(settings, FakeCascade()) as (client, _):
            assert (await client.post("/ImageSynapse", headers=call, content=body())).status_code == status


async def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    with bind_socket("127.0.0.1", 0) as taken:
        settings = make_settings(tmp_path, "--port", str(taken.getsockname()[1]))
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1"):
            await run_miner(settings, MINER.ss58_address, FakeCascade(), None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--host", "0.0.0.0", "--external-ip", "2001:db8::7"), "is IPv6, but the miner listens only on IPv4"),
        (("--host", "[::]", "--external-ip", "203.0.113.7"), None),
        (("--host", "[::]", "--external-ip", "[2001:db8::7]"), None),
        (("--external-ip", "203.0.113.7"), "listens only on 127.0.0.1: set --host 0.0.0.0"),
        (("--host", "::1", "--external-ip", "2001:db8::7"), "listens only on ::1: set --host ::"),
    ],
)
async def test_it_warns_if_the_published_address_is_not_listened_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flags: tuple[str, ...], message: str | None
) -> None:
    caplog.set_level("INFO")
    settings = make_settings(tmp_path, "--port", str(free_port()), *flags)
    async with running(settings, FakeCascade()):
        pass
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message in each for each in warnings] == [True] if message else warnings == []
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    assert f"listens on {host}:{settings.port} (offline)" in caplog.text


async def test_all_addresses_of_ipv6_include_those_of_ipv4(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "--port", str(free_port()), "--host", "::")
    async with running(settings, FakeCascade()) as (client, _):
        for host in ("127.0.0.1", "[::1]"):
            url = f"http://{host}:{settings.port}/ImageSynapse"
            assert (await client.post(url, headers=headers(), content=body())).status_code == 200


async def test_a_damaged_state_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / f"nonces-{MINER.ss58_address}").write_bytes(b"\xff\xfe\0\0\n1795863581\n[1, 2")
    settings = make_settings(tmp_path, "--port", str(free_port()))
    async with running(settings, FakeCascade()) as (client, _):
        assert (await client.post("/ImageSynapse", headers=headers(), content=body())).status_code == 200


async def test_how_far_clocks_may_be_ahead_is_a_setting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for flags, limit_s in (((), 60), (("--max-clock-ahead-s", "5"), 5)):
        settings = make_settings(tmp_path / str(limit_s), "--port", str(free_port()), *flags)
        async with running(settings, FakeCascade()) as (client, _):
            call = headers(age_s=-(limit_s - 2))
            for status in (200, 401):  # it is kept as long as it could be sent again
                assert (await client.post("/ImageSynapse", headers=call, content=body())).status_code == status
            reply = await client.post("/ImageSynapse", headers=headers(age_s=-(limit_s + 5)), content=body())
            assert reply.status_code == 401 and f"{limit_s} s are accepted" in reply.json()["message"]
        async with running(settings, FakeCascade()) as (client, _):
            assert (await client.post("/ImageSynapse", headers=call, content=body())).status_code == 401
    lines = [each for each in caplog.messages if each.startswith(f"Refused a call of {VALIDATOR.ss58_address}: ")]
    assert len(lines) == 6 and "--max-clock-ahead-s" in lines[1]


async def test_it_waits_a_limited_time_for_a_cascade_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.miner.service._RETRY_S", 0.01)
    cascade = FakeCascade()
    cascade.away = 3
    await wait_for_cascade(cascade, 5.0)
    cascade.away = 3
    with pytest.raises(StageLost, match="no application"):
        await wait_for_cascade(cascade, 0.0)


async def test_it_ends_with_the_error_of_a_server_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise OSError("the socket is gone")

    monkeypatch.setattr("roadwork_serve.miner.service._serve", broken)
    with pytest.raises(OSError, match="the socket is gone"):
        await asyncio.wait_for(
            run_miner(make_settings(tmp_path, "--port", str(free_port())), MINER.ss58_address, FakeCascade(), None), 5
        )
