"""Ports that are in use."""

import os
import socket
from collections.abc import Iterator

import pytest

from roadwork_serve import ports
from roadwork_serve.errors import ConfigError
from roadwork_serve.ports import check_port


@pytest.fixture
def taken() -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    yield listening.getsockname()[1]
    listening.close()


def test_a_port_in_use_is_refused_with_its_holder(taken: int) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(
            ConfigError, match=rf"port {taken} of {host} .*process {os.getpid()} listens there \(.*python.* --port"
        ):
            check_port(host, taken)


def test_a_holder_that_this_user_may_not_know(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(kind: str) -> list[object]:
        raise ports.psutil.AccessDenied

    monkeypatch.setattr("psutil.net_connections", none)
    with pytest.raises(ConfigError, match=r"Address already in use\. Stop that program"):
        check_port("127.0.0.1", taken)


def test_a_free_port_and_one_that_was_just_left_are_accepted(taken: int) -> None:
    with socket.create_connection(("127.0.0.1", taken)), socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            free.accept()[0].close()  # the server's side waits for stray packets now
    check_port("127.0.0.1", port)


def test_an_address_that_this_machine_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.9"):
        check_port("203.0.113.9", 0)
    with pytest.raises(ConfigError, match=r"there is no address no\.such\.host\.invalid"):
        check_port("no.such.host.invalid", 1)
