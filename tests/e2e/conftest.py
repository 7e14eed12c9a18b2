"""One private Ray with the whole application over stages without models, for all the tests here."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from benchmarks.server import journal_in
from deployments.app import build_app
from roadwork_serve.ports import free_port
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.stages.load import Opener, open_stages

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
STAGES = ("backbone", "signs", "vlm", "reasoner", "video")
POLICY = {
    "version": "test-1",
    "photo": [{"stage": stage, "exit": [0.05, 0.95]} for stage in ("backbone", "signs", "vlm")]
    + [{"stage": "reasoner", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "backbone", "exit": [0.05, 0.95]}, {"stage": "video", "exit": [0.5, 0.5]}],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the placement tests first, since they start a Ray of their own, and a process can have only one.

    Those with Ray Data run last: its leftover processes would disturb tests that measure time.
    """
    order = {"test_placement.py": -1, "test_bulk.py": 1}
    items.sort(key=lambda item: order.get(item.path.name, 0))


@dataclass(frozen=True)
class Cluster:
    """A running application. url: of the HTTP server. journal: a file with the ids of requests to the reasoner.

    gate: a file without which the reasoner blocks on requests whose id begins with "held".
    model: a file without which the fast VLM does not load.
    """

    url: str
    journal: Path
    gate: Path
    model: Path
    config: dict[str, Any]

    def deploy(self, policy: object) -> None:
        """Deploy another policy, as `serve deploy` does."""
        application = self.config["applications"][0]
        application["deployments"] = [{"name": "Ingress", "user_config": {"policy": policy}}]
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(self.config), _blocking=False)

    def pids(self) -> dict[str, list[int]]:
        """Return the processes of the running replicas by deployment."""
        details = _get_global_client().get_serve_details()["applications"]["roadwork"]["deployments"]
        return {
            name: [replica["pid"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"]
            for name, deployment in details.items()
        }


def eventually(check: Callable[[], T | None], within_s: float, what: str) -> T:
    """Return the first result of `check` that is neither None nor False. Fails after a timeout."""
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        if found := check():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {within_s:g} s: {what}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Yield the application when it is ready. Ray keeps its sockets in a separate folder, whose path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="roadwork-"))
    journal, gate, model = (folder / name for name in ("journal", "gate", "model"))
    journal.touch()
    model.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # the replicas import the fake stages
        _start_ray(folder)
        try:
            port = free_port()
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            config = _config(port, folder, journal, gate, model)
            running = Cluster(f"http://127.0.0.1:{port}", journal, gate, model, config)
            running.deploy(POLICY)
            eventually(lambda: ready(running.url), 120, "the server is ready")
            eventually(lambda: all(running.pids().values()), 20, "Serve's controller has heard of every replica")
            yield running
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def application(cluster: Cluster, name: str, profile: Profile, opener: Opener = open_stages) -> Iterator[str]:
    """Run a further application on the cluster during the block, and yield its URL when it is ready."""
    url = f"{cluster.url}/{name}"
    try:
        serve.run(build_app(profile, opener), name=name, route_prefix=f"/{name}")
        eventually(lambda: ready(url), 120, "the server is ready")
        yield url
    finally:
        serve.delete(name)


def _start_ray(folder: Path, tries: int = 3) -> None:
    """Start Ray, with a retry: its processes get 15 and 30 seconds to start, too little on a busy machine."""
    try:
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(folder),
        )
    except Exception:
        ray.shutdown()
        if tries == 1:
            raise
        _start_ray(folder, tries - 1)


def _config(port: int, folder: Path, journal: Path, gate: Path, model: Path) -> dict[str, Any]:
    engines: dict[str, Any] = {name: {"num_cpus": 0.1} for name in load_profile("mini").engines}
    stages: dict[str, Any] = {stage: {"timeout_s": 5} for stage in STAGES}
    stages["vlm"] |= {"options": {"model": str(model)}}
    stages["reasoner"] |= {"options": {"journal": str(journal), "gate": str(gate)}, "max_batch": 1, "timeout_s": 60}
    return {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "roadwork",
                "route_prefix": "/",
                "import_path": "tests.e2e.fakes:build",
                "args": {
                    "profile": "mini",
                    "overrides": {
                        "ingress": {"num_cpus": 0.1},
                        "journal": journal_in(folder),
                        "jobs": {"folder": str(folder / "jobs")},
                        "engines": engines,
                        "stages": stages,
                    },
                },
            }
        ],
    }


def ready(url: str) -> bool:
    """Return whether a server accepts requests."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
