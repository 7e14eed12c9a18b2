"""`roadwork retrain`, as people type it."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from roadwork_serve.cli import policy as governing
from roadwork_serve.cli.main import app
from roadwork_serve.journal.record import DeferredResult
from roadwork_serve.journal.store import Store
from tests.test_retraining import COLD, traffic


@pytest.fixture
def url(tmp_path: Path) -> str:
    where = f"sqlite:///{tmp_path / 'journal.db'}"
    store = Store.open(where)
    cases = traffic(900)
    store.commit([case.entry for case in cases])
    store.commit([DeferredResult(case.entry.id, 1.0, "audit") for case in cases if case.audit is not None])
    store.mark([(case.entry.id, case.mark) for case in cases if case.mark is not None])
    store.close()
    return where


def test_what_is_better_is_put_into_force_and_the_survey_goes_on(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []

    def server(where: str, method: str, path: str, body: object = None) -> dict[str, object]:
        asked.append((f"{method} {path}", body))
        rules = {"policy": COLD.to_mapping(), "audit": {"share": 0.1, "max_concurrent": 2}}
        return {"rules": rules} if method == "GET" else {"version": "new", "number": 2, "replicas": 1}

    monkeypatch.setattr(governing, "asked", server)
    words = ["retrain", "--journal", url, "--out", str(tmp_path / "out"), "--max-loss", "0.05", "--margin", "0.08"]
    result = CliRunner().invoke(app, [*words, "--promote"])
    assert result.exit_code == 0, result.output
    assert [what for what, _ in asked] == ["GET /v1/policy", "PUT /v1/policy"]
    put = asked[1][1]
    assert isinstance(put, dict) and put["audit"] == {"share": 0.1, "max_concurrent": 2}
    (folder,) = (tmp_path / "out").iterdir()
    assert yaml.safe_load((folder / "policy.yaml").read_text())["version"] == put["policy"]["version"] == folder.name
    assert put["policy"]["photo"][0]["head"] == str(folder / "head")


def test_what_is_not_better_stays_in_its_folder(url: str, tmp_path: Path) -> None:
    (tmp_path / "cold.yaml").write_text(yaml.safe_dump(COLD.to_mapping()))
    words = ["retrain", "--journal", url, "--policy", str(tmp_path / "cold.yaml"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--max-loss", "0.001"])
    assert result.exit_code == 1
    assert "Not better" in result.output and "more rows of photos are needed" in result.output.replace("\n", " ")


def test_without_a_journal_nothing_is_learned(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["retrain", "--journal", f"sqlite:///{tmp_path / 'none.db'}", "--policy", "mini"])
    assert result.exit_code == 2 and "there is no journal" in result.output
