"""Binds Serve's own gRPC server in each replica to the loopback address."""

import logging

import ray
from ray.serve._private import replica

_LOG = logging.getLogger("ray.serve.roadwork.loopback")


def stay_on_loopback() -> None:
    """Bind the replica's gRPC server to 127.0.0.1 if the node has that address; otherwise log a warning.

    Serve 2.60 binds it to all interfaces on any node. Unless Ray's own authentication is on, the server requires no
    credentials, and it unpickles what it receives. It starts when the constructor of the deployment has returned, so
    call this there.
    """
    node = ray.util.get_node_ip_address()
    if node != "127.0.0.1":
        _LOG.warning(
            "Ray's node is %s, not 127.0.0.1: Ray and each replica listen on the network. Start with `make serve` or "
            "`roadwork serve`, or make this machine's ports reachable by the cluster only.", node
        )  # fmt: skip
    else:
        bind = replica.add_port_to_grpc_server  # pyright: ignore[reportPrivateImportUsage]

        def bind_to_loopback(server: object, address: str) -> int:
            return bind(server, address.replace("[::]", "127.0.0.1"))

        replica.add_port_to_grpc_server = bind_to_loopback  # pyright: ignore[reportPrivateImportUsage]
