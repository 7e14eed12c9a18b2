"""The network that a connection's address stands for, where limits are per client."""

from ipaddress import IPv6Address, ip_address

_IPV6_BITS = 64  # a provider gives each customer at least this network, with as many addresses as they like


def client_network(address: str) -> str:
    """Return an IPv4 address as it is, an IPv6 address as its /64, and text that is neither unchanged."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    host_bits = 128 - _IPV6_BITS
    return f"{IPv6Address(int(ip) >> host_bits << host_bits)}/{_IPV6_BITS}"
