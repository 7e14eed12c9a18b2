"""Addresses that the miner listens on and publishes."""

import ipaddress
import socket

from roadwork_serve.errors import ConfigError


def authority(host: str, port: int) -> str:
    """Return HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def without_brackets(host: str) -> str:
    """Return an address without the brackets that URLs have around IPv6."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def bind_socket(host: str, port: int, flag: str = "--port") -> socket.socket:
    """Return a listening socket. On `::`, all addresses of IPv6, it listens on those of IPv4 too.

    Raises:
        ConfigError: The address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = family == socket.AF_INET6 and _is_any(host) and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=256, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {authority(host, port)}: {error}; free it, or choose another with {flag}"
        ) from None


def unreachable(listening: socket.socket, external_ip: str | None) -> str | None:
    """Return why validators cannot reach a published address through a socket; None if nothing speaks against it."""
    if external_ip is None:
        return None
    host = str(listening.getsockname()[0])
    try:
        wanted, bound = ipaddress.ip_address(external_ip), ipaddress.ip_address(host)
    except ValueError:  # an address that cannot be published is an error elsewhere
        return None
    every = "::" if wanted.version == 6 else "0.0.0.0"  # noqa: S104 - advice
    if bound.is_loopback:
        return f"{external_ip} is published, but the miner listens only on {host}: set --host {every}"
    v6_only = listening.family == socket.AF_INET6 and listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    if wanted.version == 4 and listening.family == socket.AF_INET6 and (v6_only or not bound.is_unspecified):
        return f"{external_ip} is IPv4, but the miner listens only on IPv6 ({host}): set --host {every}"
    if wanted.version == 6 and listening.family == socket.AF_INET:
        return f"{external_ip} is IPv6, but the miner listens only on IPv4 ({host}): set --host {every}"
    return None


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
