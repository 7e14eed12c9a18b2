"""Keeps Serve's own server in each replica on the loopback address."""

import logging

import ray
from ray.serve._private import replica

_LOG = logging.getLogger("ray.serve.roadwork.loopback")


def stay_on_loopback() -> None:
    """On a node at 127.0.0.1, make the replica's gRPC server listen there and nowhere else.

    Serve 2.60 binds it to all interfaces wherever the node is; unless Ray's own authentication is on it asks for no
    credentials, and it unpickles what it is sent. It starts when the constructor of the deployment has returned, so
    call this there. On any other node it warns.
    """
    node = ray.util.get_node_ip_address()
    if node != "127.0.0.1":
        _LOG.warning(
            "Ray's node is %s, not 127.0.0.1: Ray and each replica listen on the network. Start with `make serve` or "
            "`roadwork serve`, or let nobody but the cluster reach this machine's ports.", node
        )  # fmt: skip
    else:
        bind = replica.add_port_to_grpc_server  # pyright: ignore[reportPrivateImportUsage]

        def bind_to_loopback(server: object, address: str) -> int:
            return bind(server, address.replace("[::]", "127.0.0.1"))

        replica.add_port_to_grpc_server = bind_to_loopback  # pyright: ignore[reportPrivateImportUsage]
