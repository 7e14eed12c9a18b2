"""`roadwork journal check`, `backup` and `restore`, as typed in a shell, and the state folder of all the commands."""

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from roadwork_serve.cli.main import app
from roadwork_serve.journal.store import Store
from tests.journal.made import entry

PHOTO = b"\xff\xd8\xff photo"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a state folder with a journal of one entry; ROADWORK_STATE does not name it."""
    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path / "nothing"))
    monkeypatch.delenv("ROADWORK_JOURNAL", raising=False)
    folder = tmp_path / "state" / "journal"
    with closing(Store.open(f"sqlite:///{folder / 'journal.db'}", media_folder=folder / "media")) as store:
        store.commit([entry("a", media=PHOTO)])
    return tmp_path / "state"


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["journal", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


def test_the_journal_of_a_state_folder_is_the_default(state: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nothing" / "journal" / "journal.db"
    assert f"there is no journal {missing}" in run("list", code=2).output.replace("\n", "")
    assert [json.loads(run("list", "--json", "--state", state).stdout)["id"]] == ["a"]
    assert os.environ["ROADWORK_STATE"] == str(state)
    run("label", "a", "none")
    assert json.loads(run("show", "a").stdout)["file"].startswith(str(state))


def test_a_relative_state_folder_starts_here(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(state.parent)
    assert "1 entries match" in run("list", "--state", "state").stdout
    assert os.environ["ROADWORK_STATE"] == str(state)


def test_a_whole_journal_is_checked_backed_up_and_restored(state: Path, tmp_path: Path) -> None:
    assert "No problem was found" in run("check", "--state", state).stdout
    assert "1 entries and 1 media files are in" in run("backup", tmp_path / "out", "--media").stdout
    shutil.rmtree(state / "journal" / "media")
    assert "1 media files are missing" in run("check", code=1).stdout
    found = json.loads(run("check", "--json", code=1).stdout)
    assert (found["entries"], found["media_rows"], found["media_files"], len(found["problems"])) == (1, 1, 0, 1)
    assert "pass --replace" in run("restore", tmp_path / "out", code=2).output
    run("restore", tmp_path / "out", "--replace")
    assert "No problem was found" in run("check", "--full").stdout


def test_a_journal_of_an_earlier_version_is_continued(state: Path, tmp_path: Path) -> None:
    """The start of the server names this command."""
    (state / "journal").rename(tmp_path / "build")
    run("restore", tmp_path / "build", "--state", state)
    assert json.loads(run("show", "a").stdout)["file"].startswith(str(state))


def test_what_the_commands_write_only_this_user_can_read(state: Path, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        run("export", tmp_path / "new" / "out.csv", "--state", state)
        run("export", tmp_path / "set", "--format", "fiftyone")
        run("sample", tmp_path / "sample.csv")
        run("backup", tmp_path / "backup.db")
        run("backup", tmp_path / "backup", "--media")
        assert os.umask(0o022) == 0o022, "the process goes on as before"
    finally:
        os.umask(mask)
    for name in ("new", "set", "sample.csv", "backup.db", "backup"):
        for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
