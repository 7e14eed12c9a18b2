"""One server with fake models, a photo and a clip, for clients of other languages.

Its task is another one than road work, and its first stage is of another package: every client gets verdicts of both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks.fake_models import BUILDER, overrides
from benchmarks.server import ROOT, Server, started
from roadwork_serve.testbed import scenes
from tests.own_stage import install

POLICY = {
    "version": "dark-1",
    "photo": [{"stage": "darkness", "exit": [0.1, 0.9]}, {"stage": "vlm", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "video", "exit": [0.5, 0.5]}],
}


@dataclass(frozen=True)
class Files:
    """A photo and a clip with their types, as arguments of a program."""

    photo: Path
    clip: Path

    @property
    def arguments(self) -> list[str]:
        """Pairs of type and file."""
        return ["image/jpeg", str(self.photo), "video/mp4", str(self.clip)]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield the running server."""
    folder = tmp_path_factory.mktemp("server")
    install(folder)
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    given = overrides({})
    given["engines"]["own"] = {"backend": "own", "model": "darkness-1", "num_cpus": 0.1}
    given["stages"]["darkness"] = {"engine": "own"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        args = {"profile": "mini", "overrides": given | {"task": "potholes", "policy": str(policy)}}
        path = {"PYTHONPATH": f"{folder}:{ROOT}"}
        with started(folder / "server.log", args, builder=BUILDER, environment=path) as running:
            yield running


@pytest.fixture(scope="session")
def url(server: Server) -> str:
    """Return the URL at which the server classifies files."""
    return f"{server.url}/v1/classify"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return files larger than a packet."""
    folder = tmp_path_factory.mktemp("files")
    found = Files(folder / "photo.jpg", folder / "clip.mp4")
    found.photo.write_bytes(scenes.photo(7).jpeg() + bytes(200_000))  # what follows a picture is ignored
    found.clip.write_bytes(scenes.clip(7).mp4())
    return found
