"""Acts as another user of the machine on Ray's ports and files: prints every success as a line of JSON.

Everything is imported before this process becomes the other user, who may not be able to read the libraries.
"""

import importlib
import json
import os
import pkgutil
import pwd
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import ray.core.generated

HOST = {"Host": "evil.com"}
PATHS = (
    "/", "/metrics", "/api/jobs/", "/api/job_agent/jobs/", "/api/v0/logs", "/api/v0/logs/file?filename=gcs_server.out",
    "/api/serve/applications/", "/api/version", "/api/cluster_status", "/api/ray/version", "/nodes?view=summary",
    "/logical/actors", "/logs", "/worker/traceback", "/task/traceback", "/api/grafana_health", "/timeline",
    "/api/healthz", "/api/gcs_healthz", "/api/local_raylet_healthz", "/-/healthz", "/-/routes",
    "/api/authentication_mode", "/static/../../etc/passwd",
)  # fmt: skip
POSTS = ("/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env", "/get_runtime_envs_info")
CLOSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED}
EACH_S = 3.0


def methods() -> list[str]:
    """Return every gRPC method that Ray defines."""
    found: set[str] = set()
    for module in pkgutil.walk_packages(ray.core.generated.__path__, "ray.core.generated."):
        if module.name.endswith("_pb2"):
            for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return sorted(found)


def http_answers(port: int, mark: Path) -> Iterator[str]:
    """Yield the requests that a port serves."""
    job = {"entrypoint": f"touch {mark}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HOST, timeout=EACH_S) as client:
        for method, path in [("GET", path) for path in PATHS] + [("POST", path) for path in POSTS]:
            try:
                answer = client.request(method, path, json=job if method == "POST" else None)
            except httpx.HTTPError:
                continue
            if answer.headers.get("Content-Type", "").startswith("text/plain; version="):
                yield "Prometheus's metrics, whatever the path"
                return
            if answer.status_code not in (401, 403, 404, 405):
                yield f"{method} {path} {answer.status_code}"


def grpc_answers(port: int, every: list[str]) -> Iterator[str]:
    """Yield the gRPC methods that a port serves."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(EACH_S)
        except grpc.FutureTimeoutError:
            return
        for method in every:
            try:
                channel.unary_unary(method)(b"", timeout=EACH_S)
                yield f"{method} OK"
            except grpc.RpcError as error:
                if error.code() not in CLOSED:
                    yield f"{method} {error.code().name}"


def readable(folders: list[Path]) -> Iterator[str]:
    """Yield the paths in folders that this user can read, enter, write or connect to."""
    for folder in folders:
        for path in (
            folder,
            folder / "ray",
            folder / "ray/token",
            folder / "ray/address",
            folder / "ray/session_latest",
        ):
            if any(os.access(path, mode) for mode in (os.R_OK, os.W_OK, os.X_OK)):
                yield str(path)


def connectable(sockets: list[str]) -> Iterator[str]:
    """Yield the Unix sockets that accept a connection."""
    for path in sockets:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(path) == 0:
                yield path


def main() -> None:
    """Read the ports, folders and sockets from stdin, become another user, and attack them."""
    target, every = json.load(sys.stdin), methods()
    with grpc.insecure_channel("127.0.0.1:9") as channel, suppress(grpc.RpcError):  # these calls load what is lazy
        channel.unary_unary(every[0])(b"", timeout=EACH_S)
    assert not [*http_answers(9, Path()), *grpc_answers(9, every)]
    who = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(who.pw_gid)
    os.setuid(who.pw_uid)
    found: dict[str, list[str]] = {}
    for port in target["ports"]:
        found[str(port)] = [*http_answers(port, Path(target["mark"])), *grpc_answers(port, every)]
    folders = [Path(folder) for folder in target["folders"]]
    files, sockets = list(readable(folders)), list(connectable(target["sockets"]))
    print(json.dumps({"methods": len(every), "ports": found, "files": files, "sockets": sockets}), flush=True)
    os._exit(0)  # Ray's exit handlers import more


if __name__ == "__main__":
    main()
