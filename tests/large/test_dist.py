"""The wheel of `make dist`, in an environment without this checkout, run from an empty folder."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from benchmarks.server import ROOT, environment_in, stop
from roadwork_serve.journal.store import Store
from roadwork_serve.ports import free_port
from roadwork_serve.schema import BatchResult
from tests.e2e.conftest import eventually, ready

UV = Path(sys.executable).with_name("uv")
MORE = {"serve_config.yaml": "roadwork_serve/serve_config.yaml", "ops/haproxy/haproxy.sh": "roadwork_serve/haproxy.sh"}


@dataclass(frozen=True)
class Installed:
    """An installed wheel. python: of the environment. folder: working directory. environment: of the processes."""

    python: Path
    folder: Path
    environment: dict[str, str]

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of the wheel and return its output."""
        command = [self.python.with_name(program), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--wheel", "--quiet", "--out-dir", out, ROOT], check=True, timeout=120)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Install the wheel alone; its dependencies are those of the tests' environment."""
    home = tmp_path_factory.mktemp("home")
    python = home / "venv/bin/python"
    with tempfile.TemporaryDirectory(prefix="rw-") as ray:  # Ray's socket paths must be short
        environment = {**os.environ, **environment_in(Path(ray))}
        del environment["PYTHONPATH"]
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home / "venv"], check=True, timeout=60)
        install = [UV, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel]
        subprocess.run(install, check=True, timeout=60)
        (packages,) = home.glob("venv/lib/python*/site-packages")
        (there,) = {path for path in sys.path if (Path(path) / "ray").is_dir()}
        (packages / "dependencies.pth").write_text(f"{there}\n")  # the .pth files in it, of this checkout, are not read
        folder = home / "empty"
        folder.mkdir()
        yield Installed(python, folder, environment)


def test_everything_that_git_tracks_in_the_packages_is_in_the_wheel(wheel: Path) -> None:
    listing = ["git", "ls-files", "roadwork_serve", "deployments", "miner.py"]
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
        assert len(tracked) > 200 and not {*tracked, *MORE.values()} - there
        for name, carried in MORE.items():
            assert archive.read(carried) == (ROOT / name).read_bytes()
        packages = {name.partition("/")[0] for name in there if ".dist-info/" not in name}
        assert packages == {"roadwork_serve", "deployments", "miner.py"}, "and nothing that is not meant to be"


def test_commands_run_from_the_wheel(installed: Installed) -> None:
    code = "import roadwork_serve, deployments.app, miner; print(roadwork_serve.__file__, deployments.app.__file__)"
    for file in installed.run("python", "-W", "ignore", "-c", code).split():
        assert Path(file).is_relative_to(installed.python.parents[1])
    assert installed.run("roadwork", "--version").strip() == version("roadwork-serve")
    assert "Detect active road work in photos and clips" in installed.run("roadwork", "--help")
    assert "--offline" in installed.run("roadwork-miner", "--help")
    assert "Stage backbone" in installed.run("roadwork", "doctor", "--port", str(free_port()))


def test_profiles_are_in_the_wheel(installed: Installed) -> None:
    assert "GPU 0, 22 GiB" in installed.run("roadwork", "plan", "--profile", "gpu-24gb")


def test_a_scene_is_rendered_and_classified_by_the_bundled_miniatures(installed: Installed) -> None:
    installed.run("roadwork", "render", "--out", "scenes", "--count", "1")
    (scene,) = (installed.folder / "scenes").glob("*.jpg")
    batch = BatchResult.model_validate_json(installed.run("roadwork", "classify", "--json", str(scene)))
    assert [result.verdict is not None and not result.verdict.degraded for result in batch.results] == [True]


def answers(journal: Path) -> int:
    store = Store.open(f"sqlite:///{journal}")
    try:
        return store.count()
    finally:
        store.close()


@pytest.mark.timeout(400)
def test_the_server_runs_and_stores_its_journal_in_the_state_folder(installed: Installed) -> None:
    (packaged,) = installed.python.parents[1].glob("lib/python*/site-packages/roadwork_serve/serve_config.yaml")
    assert os.access(packaged.with_name("haproxy.sh"), os.X_OK)
    config, port = yaml.safe_load(packaged.read_text()), free_port()
    config["http_options"]["port"] = port
    (installed.folder / "mine.yaml").write_text(yaml.safe_dump(config))
    url, log = f"http://127.0.0.1:{port}", installed.folder / "server.log"
    command = [installed.python.with_name("roadwork"), "serve", "--config", "mine.yaml", "--profile", "mini"]
    command += ["--state", "state"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=installed.folder, env=installed.environment, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        eventually(lambda: ready(url), 240, "the server is ready")
        (scene,) = (installed.folder / "scenes").glob("*.jpg")
        batch = BatchResult.model_validate_json(
            installed.run("roadwork", "classify", "--server", url, "--json", str(scene))
        )
        assert [result.verdict is not None for result in batch.results] == [True]
        journal = installed.folder / "state/journal/journal.db"
        eventually(lambda: answers(journal) == 1, 30, "the answer is written down")
    finally:
        stop(server)


@pytest.mark.timeout(400)
def test_the_demo_runs_and_leaves_nothing_behind(installed: Installed) -> None:
    before = sorted(installed.folder.iterdir())
    count = len(yaml.safe_load((ROOT / "roadwork_serve/console/samples/samples.json").read_text()))
    assert f"{count} of {count} correct." in installed.run("roadwork", "demo")
    assert sorted(installed.folder.iterdir()) == before
