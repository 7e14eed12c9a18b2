"""Ray's token and private folder, and the address of the server that runs."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.ray_environment import RAY, ray_environment, token_file
from roadwork_serve.running_server import RunningServer, cluster_address, publishing, running_server

# Publishes an address and is killed.
KILLED = """
import os, signal, sys
from pathlib import Path
from roadwork_serve.running_server import RunningServer, publishing
with publishing(Path(sys.argv[1])) as publish:
    publish(RunningServer("127.0.0.1:6379", "http://127.0.0.1:8000"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that stands in for /tmp."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_rays_calls_carry_a_token_that_only_this_user_can_read(tmp_path: Path) -> None:
    environment = {"ROADWORK_STATE": str(tmp_path / "state")}
    first = ray_environment(environment)
    file = Path(first["RAY_AUTH_TOKEN_PATH"])
    assert first["RAY_AUTH_MODE"] == "token" and file == tmp_path / "state/ray/token"
    assert (mode(file), mode(file.parent), mode(tmp_path / "state")) == (0o600, 0o700, 0o700)
    token = file.read_text()
    assert len(token) == 64 and ray_environment(environment) == first and file.read_text() == token
    assert list(file.parent.iterdir()) == [file]
    assert token_file(tmp_path / "another").read_text() != token


def test_rays_files_are_in_a_folder_that_only_this_user_can_enter(tmp_path: Path, temporary: Path) -> None:
    environment = {"ROADWORK_STATE": str(tmp_path / "state")}
    folder = Path(ray_environment(environment)["RAY_TMPDIR"])
    assert folder == temporary / f"roadwork-{os.getuid()}" and mode(folder) == 0o700
    folder.chmod(0o777)
    ray_environment(environment)
    assert mode(folder) == 0o700
    assert "RAY_TMPDIR" not in ray_environment(environment | {"RAY_TMPDIR": "/srv/ray"})


@pytest.mark.parametrize("kind", ["link", "of another user"])
def test_a_folder_that_another_user_has_put_there_is_refused(
    kind: str, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"ROADWORK_STATE": str(tmp_path / "state")}
    token_file(tmp_path / "state")
    folder = temporary / f"roadwork-{os.getuid()}"
    if kind == "link":
        folder.symlink_to(tmp_path / "state")
    else:
        folder.mkdir()
        other = os.stat_result([0o40700, 0, 0, 2, os.getuid() + 1, 0, 0, 0, 0, 0])
        real = Path.stat
        monkeypatch.setattr(Path, "stat", lambda path, **how: other if path == folder else real(path, **how))
    with pytest.raises(ConfigError, match=r"name one, with a short path, in RAY_TMPDIR"):
        ray_environment(environment)


def test_a_cluster_that_the_user_names_keeps_its_own_settings(tmp_path: Path) -> None:
    environment = {"ROADWORK_STATE": str(tmp_path / "state"), "RAY_ADDRESS": "10.0.0.1:6379"}
    assert ray_environment(environment) == RAY and not any(name.startswith("RAY_AUTH") for name in RAY)
    assert cluster_address(environment) == "10.0.0.1:6379"
    assert not (tmp_path / "state").exists()
    assert "RAY_AUTH_MODE" in ray_environment(environment | {"RAY_ADDRESS": "local"})


def test_the_address_is_there_while_the_server_runs(tmp_path: Path) -> None:
    environment = {"ROADWORK_STATE": str(tmp_path)}
    none = pytest.raises(ConfigError, match=r"no server of yours is running .*make serve.*RAY_ADDRESS")
    with none:
        cluster_address(environment)
    with publishing(tmp_path) as publish:
        with none:
            cluster_address(environment)
        publish(RunningServer("127.0.0.1:6379", "http://127.0.0.1:8000"))
        assert running_server(tmp_path) == RunningServer("127.0.0.1:6379", "http://127.0.0.1:8000")
        assert cluster_address(environment) == "127.0.0.1:6379" and mode(tmp_path / "ray/address") == 0o600
        with pytest.raises(ConfigError, match=r"another server of yours .*ROADWORK_STATE"), publishing(tmp_path):
            pass
        assert cluster_address(environment) == "127.0.0.1:6379"
    with none:
        cluster_address(environment)
    assert list((tmp_path / "ray").iterdir()) == []


def test_the_address_of_a_killed_server_is_not_used(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode < 0 and (tmp_path / "ray/address").read_text() == "127.0.0.1:6379"
    with pytest.raises(ConfigError, match="no server of yours"):
        cluster_address({"ROADWORK_STATE": str(tmp_path)})
    with publishing(tmp_path) as publish:
        with pytest.raises(ConfigError, match="no server of yours"):  # until the new one has a Ray
            cluster_address({"ROADWORK_STATE": str(tmp_path)})
        publish(RunningServer("127.0.0.1:6380", "http://127.0.0.1:8001"))
        assert cluster_address({"ROADWORK_STATE": str(tmp_path)}) == "127.0.0.1:6380"
