"""`roadwork journal`, as typed in a shell."""

import csv
import inspect
import json
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from roadwork_serve import schema
from roadwork_serve.cli.main import app
from roadwork_serve.cli.options import journal_filter
from roadwork_serve.journal.export import write_table
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.journal.store import Store
from roadwork_serve.schema import Exit
from roadwork_serve.table_files import ENDINGS
from tests.journal.made import audit, entry, report

NOW = time.time()
PHOTO = b"\xff\xd8\xff photo"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    where = f"sqlite:///{tmp_path / 'journal.db'}"
    monkeypatch.setenv("ROADWORK_JOURNAL", where)
    store = Store.open(where, media_folder=tmp_path / "media", max_media_bytes=10**6)
    late = {"exit": Exit(stage="vlm", reason="last_stage"), "stages": [report("backbone", 0.5), report("vlm", 0.2)]}
    store.commit(
        [
            entry("a", 0.95, NOW - 7200, media=PHOTO),
            entry("b", 0.2, NOW - 60, verdict=late, key="=camera"),
            entry("c", 0.6, NOW - 30, verdict={"degraded": True}),
            audit("b", report("signs", None)),
        ]
    )
    store.annotate([("a", Annotation("none", "ann", 1.0))])
    store.close()
    return where


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["journal", *words])
    assert result.exit_code == code, result.output
    return result


def listed(*words: str) -> list[str]:
    return [json.loads(line)["id"] for line in run("list", "--json", *words).stdout.splitlines()]


def test_the_newest_answers_come_first_and_filters_narrow_them(url: str) -> None:
    assert listed() == ["c", "b", "a"]
    assert listed("--since", "1h") == ["c", "b"]
    assert listed("--label", "none") == ["b"]
    assert listed("--exit-stage", "vlm") == ["b"] == listed("--exit-reason", "last_stage")
    assert listed("--degraded") == ["c"] and listed("--complete") == ["b", "a"]
    assert listed("--labeled") == ["a"] and listed("--audited") == ["b"]
    assert listed("--min-probability", "0.5", "--max-probability", "0.7") == ["c"]
    assert listed("--limit", "1") == ["c"]
    assert "3 entries match" in run("list").stdout


def test_show_prints_the_whole_entry(url: str, tmp_path: Path) -> None:
    shown = json.loads(run("show", "request-a").stdout)
    assert (shown["id"], shown["human_label"]["label"], shown["origin"]) == ("a", "none", "http")
    assert Path(shown["file"]).read_bytes() == PHOTO
    shown = json.loads(run("show", "b").stdout)
    assert [each["stage"] for each in shown["audit"]] == ["signs"]
    assert [each["stage"] for each in shown["verdict"]["stages"]] == ["backbone", "vlm"]
    assert "the journal has no prediction z" in run("show", "z", code=2).output


def test_one_or_many_entries_are_labeled(url: str, tmp_path: Path) -> None:
    run("label", "b", "roadwork", "--author", "ann", "--note", "a cone")
    (tmp_path / "labels.csv").write_text("request_id,label,note\nrequest-a,roadwork,\nrequest-c,unclear,dark\n")
    assert "2 labeled" in run("label", "--csv", str(tmp_path / "labels.csv"), "--author", "bob").stdout
    store = Store.open(url)
    annotations = {case.prediction.id: case.annotation for case in store.find()}
    store.close()
    assert {name: (mark.label, mark.author, mark.note) for name, mark in annotations.items() if mark} == {
        "a": ("roadwork", "bob", ""),
        "b": ("roadwork", "ann", "a cone"),
        "c": (None, "bob", "dark"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,maybe\n", "line 2: label 'maybe'; write one of roadwork, none, unclear"),
        ("id,label\na,\nb,maybe\n", "line 3: label 'maybe'"),
        ("name,label\na,none\n", "needs the columns label, and id"),
        ("id,label\na,none\nz,none\n", "the journal has no prediction z"),
    ],
)
def test_a_file_of_labels_is_applied_as_a_whole_or_not_at_all(
    url: str, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    assert message in run("label", "--csv", str(tmp_path / "labels.csv"), code=2).output.replace("\n", " ")
    assert listed("--labeled") == ["a"]


def test_stats_summarize_the_entries(url: str) -> None:
    stats = json.loads(run("stats", "--json").stdout)
    assert (stats["predictions"], stats["labeled"], stats["accuracy_where_labeled"], stats["audited"]) == (3, 1, 0.0, 1)
    assert stats["exit_mix"] == {"backbone": pytest.approx(2 / 3), "vlm": pytest.approx(1 / 3)}
    assert stats["mean_tflop"] == pytest.approx((3 * 126e9 + 5600e9) / 3 / 1e12)
    assert stats["stage_ms"]["backbone"]["n"] == 3
    assert "exit mix: backbone 0.6667, vlm 0.3333" in run("stats").stdout
    assert "drift" in json.loads(run("stats", "--json", "--window-hours", "1").stdout)


def test_a_file_saved_by_a_spreadsheet_is_read(url: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("\ufeffsha256;x,label,id\r\n,none ,b\r\n,,c\r\n".encode())
    assert "1 labeled" in run("label", "--csv", str(tmp_path / "labels.csv")).stdout
    assert listed("--labeled") == ["b", "a"]


def test_label_requires_an_answer(url: str) -> None:
    assert "give an id and a label, or --csv FILE" in run("label", "b", code=2).output
    assert listed("--labeled") == ["a"]


def test_export_writes_a_table(url: str, tmp_path: Path) -> None:
    assert "3 entries" in run("export", str(tmp_path / "all.csv")).stdout
    with (tmp_path / "all.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert (lines[0]["human_label"], lines[1]["p_vlm"], lines[1]["key"]) == ("none", "0.2", "'=camera")
    run("export", str(tmp_path / "some.parquet"), "--since", "1h")
    table = pq.read_table(tmp_path / "some.parquet")
    assert table.column("id").to_pylist() == ["b", "c"]
    assert table.column("p_vlm").to_pylist() == [0.2, None]
    assert str(table.schema.field("created_at").type) == "timestamp[ms, tz=UTC]"


def test_the_ending_of_the_name_is_the_format(url: str, tmp_path: Path) -> None:
    run("export", str(tmp_path / "all.JSONL"))
    lines = [json.loads(line) for line in (tmp_path / "all.JSONL").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"] and lines[0]["created_at"].endswith("+00:00")
    assert "must end in .parquet or .csv or .jsonl" in run("export", str(tmp_path / "all.xlsx"), code=2).output
    contradiction = run("export", str(tmp_path / "all.csv"), "--format", "parquet", code=2).output
    assert "all.csv must end in .parquet" in contradiction
    assert "must end in .csv" in run("sample", str(tmp_path / "draw.parquet"), code=2).output
    assert sorted(path.name for path in tmp_path.glob("all*")) == ["all.JSONL"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_is_written_row_by_row(tmp_path: Path, ending: str) -> None:
    made = entry("a")
    write_table(tmp_path / f"warm{ending}", iter([JournalRow(made)]))
    tracemalloc.start()
    try:
        rows = (JournalRow(replace(made, id=f"{number:06d}")) for number in range(8_000))
        count = write_table(tmp_path / f"table{ending}", rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 8_000
    assert peak < 3.5e6


def test_a_table_that_cannot_be_written_is_an_error(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = run("export", str(tmp_path / "file/table.csv"), code=2).output
    assert "cannot be written: " in output


def test_an_export_that_fails_halfway_leaves_no_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.journal.export.export_row", lambda case: 1 / 0)
    for kind in ("csv", "parquet"):
        result = CliRunner().invoke(app, ["journal", "export", str(tmp_path / f"x.{kind}"), "--format", kind])
        assert isinstance(result.exception, ZeroDivisionError)
    assert not list(tmp_path.glob("*x.*"))


def test_export_writes_a_fiftyone_dataset(url: str, tmp_path: Path) -> None:
    assert "1 photos and 0 clips" in run("export", str(tmp_path / "out"), "--format", "fiftyone").stdout
    samples = json.loads((tmp_path / "out/photos/samples.json").read_text())["samples"]
    assert samples[0]["ground_truth"]["label"] == "none"


def test_an_export_without_files_says_what_keeps_them(url: str, tmp_path: Path) -> None:
    output = run("export", str(tmp_path / "out"), "--format", "fiftyone").stdout
    assert "2 have no file" in output and "journal.max_media_gib" in output
    complete = run("export", str(tmp_path / "a"), "--format", "fiftyone", "--until", "1h").stdout
    assert "0 have no file" in complete and "max_media_gib" not in complete


@pytest.mark.parametrize("words", [("list",), ("stats",), ("show", "a")])
def test_reading_does_not_create_a_journal(tmp_path: Path, words: tuple[str, ...]) -> None:
    where = tmp_path / "none.db"
    assert "there is no journal" in run(*words, "--journal", f"sqlite:///{where}", code=2).output
    assert not where.exists()


def test_filters_offer_the_values_of_verdicts() -> None:
    """Labels and stages are open: tasks and other packages add to them."""
    options = inspect.signature(journal_filter).parameters
    for name, values in (("exit_reason", schema.ExitReason), ("media", schema.MediaKind)):
        assert set(get_args(get_args(get_args(options[name].annotation)[0])[0])) == set(get_args(values))
    assert "Invalid value for '--media'" in run("list", "--media", "film", code=2).output


def test_an_invalid_time_is_an_error(url: str) -> None:
    assert "'yesterday' is no time" in run("list", "--since", "yesterday", code=2).output


def test_forget_deletes_what_it_is_told_to_and_asks_first(url: str, tmp_path: Path) -> None:
    assert "say which entries" in run("forget", code=2).stderr
    assert "say which entries" in run("forget", "a", "--all", code=2).stderr
    refused = CliRunner().invoke(app, ["journal", "forget", "a"], input="n\n")
    assert refused.exit_code == 1 and "Delete 1 entries for good?" in refused.output
    assert "0 entries and 1 files are deleted" in run("forget", "a", "--files-only", "--yes").output
    assert not [path for path in (tmp_path / "media").rglob("*") if path.is_file()]
    assert "1 entries and 0 files are deleted" in run("forget", "request-a", "--yes").output
    assert "2 entries" in run("forget", "--since", "1h", "--yes").output
    assert "0 entries match" in run("list").output
