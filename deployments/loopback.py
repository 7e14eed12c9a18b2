"""Keeps Serve's own server in each replica on the loopback address."""

import ray
from ray.serve._private import replica


def stay_on_loopback() -> None:
    """On a node at 127.0.0.1, make the replica's gRPC server listen there and nowhere else.

    Serve 2.60 binds it to all interfaces wherever the node is; it asks for no credentials and unpickles what
    it is sent. It starts when the constructor of the deployment has returned, so call this there.
    """
    if ray.util.get_node_ip_address() == "127.0.0.1":
        bind = replica.add_port_to_grpc_server  # pyright: ignore[reportPrivateImportUsage]

        def bind_to_loopback(server: object, address: str) -> int:
            return bind(server, address.replace("[::]", "127.0.0.1"))

        replica.add_port_to_grpc_server = bind_to_loopback  # pyright: ignore[reportPrivateImportUsage]
