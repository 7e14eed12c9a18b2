"""Finds free ports, checks that one is free, and names who has it."""

import random
import socket
from contextlib import closing, suppress

import psutil

from roadwork_serve.errors import ConfigError

# Below the ports that systems give to connections, which could take one before a server listens there.
_FROM_PORT, _TO_PORT = 20_000, 30_000


def free_port() -> int:
    """Return a port of the loopback address on which nothing listens at the moment. Raises ConfigError."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address on which nothing listens at the moment. Raises ConfigError."""
    found: list[int] = []
    for port in random.sample(range(_FROM_PORT, _TO_PORT), _TO_PORT - _FROM_PORT):
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
            found.append(port)
        if len(found) == count:
            return found
    raise ConfigError(f"there are no {count} free ports from {_FROM_PORT} to {_TO_PORT - 1}; stop other programs")


def check_port(host: str, port: int) -> None:
    """Check that a server can listen there. Ray would share the port silently with another server of this user.

    Raises:
        ConfigError: Another program listens, named where this user may know it; or there is no such address.
    """
    for family, kind, protocol, _, address in _addresses(host, port):
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise ConfigError(
                    f"port {port} of {host} cannot be used: {_holder(port) or error.strerror}. Stop that program, or "
                    "choose another port with --port"
                ) from None


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str | int, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"there is no address {host} to listen on ({error.strerror}); correct --host") from None
    return [(int(family), int(kind), protocol, name, address) for family, kind, protocol, name, address in found]  # pyright: ignore[reportReturnType]


def _holder(port: int) -> str | None:
    """Return who listens on a port, as far as this user may know."""
    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port:
                if each.pid is None:
                    return "a program of another user listens there"
                program = " ".join(psutil.Process(each.pid).cmdline())[:120]
                return f"process {each.pid} listens there ({program})"
    return None
