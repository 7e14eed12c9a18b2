"""The folder for what a server keeps."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from roadwork_serve.cli.main import app
from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.settings import MinerSettings
from roadwork_serve.profiles.journal import JournalSpec, sqlite_file
from roadwork_serve.state_folder import make_private, state_folder


def test_the_folder_follows_the_variable_then_xdg_then_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder({"ROADWORK_STATE": "/srv/one", "XDG_STATE_HOME": "/srv/two"}) == Path("/srv/one")
    assert state_folder({"XDG_STATE_HOME": "/srv/two"}) == Path("/srv/two/roadwork-serve")
    assert state_folder({"XDG_STATE_HOME": "relative"}) == tmp_path / ".local/state/roadwork-serve"
    assert state_folder({}) == tmp_path / ".local/state/roadwork-serve"


def test_every_folder_that_is_made_is_private(tmp_path: Path):
    tmp_path.chmod(0o755)
    folder = make_private(tmp_path / "one" / "two")
    assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [0o700, 0o700]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_an_existing_folder_becomes_private(tmp_path: Path):
    folder = tmp_path / "old"
    folder.mkdir(mode=0o755)
    assert make_private(folder).stat().st_mode & 0o777 == 0o700


def test_a_path_below_a_file_is_an_error_that_names_the_variable(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="ROADWORK_STATE"):
        make_private(tmp_path / "file" / "state")


def test_make_clean_removes_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ROADWORK_STATE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    spec = JournalSpec().resolved()
    paths = [sqlite_file(spec.url), Path(spec.media_folder), Path(spec.spool_folder)]
    paths.append(MinerSettings.model_fields["state"].get_default(call_default_factory=True))
    for path in paths:
        assert path is not None and path.is_relative_to(tmp_path / ".local/state/roadwork-serve")


def test_serve_makes_the_folder_and_passes_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROADWORK_STATE", "elsewhere")
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(os.environ["ROADWORK_STATE"]))
    for words, folder in (([], "elsewhere"), (["--state", "chosen"], "chosen")):
        os.chdir(tmp_path)
        result = CliRunner().invoke(app, ["serve", *words])
        assert result.exit_code == 0, result.output
        assert started.pop() == str(tmp_path / folder)
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700
        monkeypatch.setenv("ROADWORK_STATE", "elsewhere")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigError, match="another user"):
        make_private(folder)
