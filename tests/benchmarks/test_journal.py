import json
from pathlib import Path

import pytest

from benchmarks import journal


def test_what_the_journal_costs_is_written_with_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "RECORDS", 8)
    monkeypatch.setattr(journal, "RUNS", 1)
    assert journal.main(["--out", str(tmp_path / "journal.json")]) == 0
    told = json.loads((tmp_path / "journal.json").read_text())
    assert told["record_bytes"] > 8192
    assert min(told[name] for name in ("encode_us", "append_us", "decode_us")) > 0
    assert set(told["sqlite_records_a_second_by_batch"]) == {"1", "32", "256"}
    assert told["environment"]["command"] == "python -m benchmarks.journal"
    assert "append_us" in capsys.readouterr().out
