import json
from pathlib import Path

import pytest

from benchmarks import journal


def test_the_costs_of_the_journal_are_written_with_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "RECORDS", 8)
    monkeypatch.setattr(journal, "RUNS", 1)
    assert journal.main(["--out", str(tmp_path / "journal.json")]) == 0
    result = json.loads((tmp_path / "journal.json").read_text())
    assert result["record_bytes"] > 8192
    assert min(result[name] for name in ("encode_us", "append_us", "decode_us")) > 0
    assert set(result["sqlite_records_per_s_by_batch"]) == {"1", "32", "256"}
    assert result["environment"]["command"] == "python -m benchmarks.journal"
    assert "append_us" in capsys.readouterr().out
