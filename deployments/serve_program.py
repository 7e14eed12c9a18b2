"""Ray Serve's `serve run`, on a Ray whose address other processes of the same user find in the state folder."""

import os
import sys

import ray
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.scripts import cli

from roadwork_serve.errors import RoadworkError
from roadwork_serve.ray_address import publishing
from roadwork_serve.ray_environment import named_cluster
from roadwork_serve.state_folder import state_folder
from roadwork_serve.terminal import echo, echo_error


def main() -> None:
    """Run a configuration until a signal. Exit with code 2 if another server uses the state folder."""
    config = sys.argv[1]
    try:
        with publishing(state_folder()) as publish:
            ray.init(address=named_cluster() or "local", namespace=SERVE_NAMESPACE)
            address = ray.get_runtime_context().gcs_address
            publish(address)
            if os.environ.get("RAY_AUTH_MODE") == "token" and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
                echo(f"Ray's dashboard and the command `serve` ask for the token in {path}", err=True)
            cli(["run", "--address", address, config], prog_name="serve")
    except RoadworkError as error:
        echo_error(f"{error.title}: {error}")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
