"""Migration of a journal that the code of commit 9dc3935 wrote; see tests/data/journal-0002.md."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from roadwork_serve.journal.coding import decode
from roadwork_serve.journal.migrate import upgrade
from roadwork_serve.journal.record import Annotation, DeferredResult, PredictionRecord
from roadwork_serve.journal.store import Store

DATA = Path(__file__).parents[1] / "data"
OLD_JOURNAL = DATA / "journal-0002.sqlite3"
TABLES = {"answers": "predictions", "asides": "deferred_results", "marks": "annotations", "files": "media_files"}
COLUMNS = {
    "answers": {"at_s": "created_at_s", "policy_number": "policy_revision", "survey": "audit_rate"},
    "asides": {"of": "prediction_id", "version": "policy_version", "at_s": "created_at_s"},
    "marks": {"number": "id", "of": "prediction_id", "by": "author", "at_s": "created_at_s"},
    "files": {"at_s": "created_at_s", "useful": "usefulness"},
}
KEYS = {
    "gear": "degradation_level",
    "survey": "audit_rate",
    "batch_ms": "preprocess_ms",
    "hop_ms": "rpc_ms",
    "saw": "evidence",
    "words": "text_lines",
    "thought": "reasoning",
    "left_over": "other_token_mass",
    "coarse": "from_choice",
    "words_likely": "text_probability",
    "frames": "frame_probabilities",
}

Rows = list[dict[str, Any]]


def old_rows() -> dict[str, Rows]:
    """Return all rows of the old journal by table."""
    with sqlite3.connect(OLD_JOURNAL) as connection:
        connection.row_factory = sqlite3.Row
        found = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in TABLES}
    connection.close()
    return found


def renamed(value: Any) -> Any:
    """Return JSON with the new names of all keys."""
    if isinstance(value, dict):
        return {KEYS.get(key, key): renamed(inner) for key, inner in value.items()}
    return [renamed(inner) for inner in value] if isinstance(value, list) else value


def expected(table: str, row: dict[str, Any]) -> dict[str, Any]:
    found = {COLUMNS[table].get(name, name): value for name, value in row.items()}
    for name in ("verdict", "body"):
        if name in found:
            found[name] = renamed(json.loads(found[name]))
    if table == "answers":
        found["filename"] = ""
    if table == "asides":
        found["kind"] = {"survey": "audit", "shadow": "shadow"}[row["kind"]]
    return found


def engine_of(url: str) -> Engine:
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def write_old(url: str, rows: dict[str, Rows], revision: str = "0002") -> None:
    """Create the tables of an old revision, and insert rows."""
    engine = engine_of(url)
    upgrade(engine, revision)
    with engine.begin() as connection:
        for table, each in rows.items():
            names = list(each[0])
            columns, values = ", ".join(f'"{name}"' for name in names), ", ".join(f":{name}" for name in names)
            flags = [{**row, "degraded": bool(row["degraded"])} if "degraded" in row else row for row in each]
            connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), flags)
        if connection.dialect.name == "postgresql" and "marks" in rows:
            connection.execute(text("SELECT setval('marks_number_seq', (SELECT max(number) FROM marks))"))
    engine.dispose()


def read_new(url: str) -> dict[str, Rows]:
    engine = engine_of(url)
    with engine.connect() as connection:
        found = {
            old: [dict(row) for row in connection.execute(text(f"SELECT * FROM {new}")).mappings()]
            for old, new in TABLES.items()
        }
    engine.dispose()
    for row in (*found["answers"], *found["asides"]):
        for name in {"verdict", "body"} & row.keys():
            row[name] = json.loads(row[name])
    return found


def ordered(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: json.dumps(row, default=repr, sort_keys=True))


def test_every_value_of_an_old_journal_is_kept_under_its_new_name(url: str, opened: Callable[..., Store]) -> None:
    old = old_rows()
    assert {name: len(rows) for name, rows in old.items()} == {"answers": 16, "asides": 5, "marks": 4, "files": 2}
    write_old(url, old)
    opened()
    new = read_new(url)
    for table, rows in old.items():
        assert ordered(new[table]) == ordered([expected(table, row) for row in rows])


def test_the_journal_file_is_migrated(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite3"
    shutil.copy(OLD_JOURNAL, file)
    Store.open(f"sqlite:///{file}").close()
    new = read_new(f"sqlite:///{file}")
    for table, rows in old_rows().items():
        assert ordered(new[table]) == ordered([expected(table, row) for row in rows])


def test_an_old_journal_is_read_and_written_like_a_new_one(url: str, opened: Callable[..., Store]) -> None:
    write_old(url, old_rows())
    store = opened()
    rows = {row.prediction.id: row for row in store.find()}
    assert len(rows) == 16
    first, clip = rows["a1"], rows["a2"]
    assert first.annotation == Annotation("roadwork", "ann", 1763873000.0, 'by, of: "mark"')
    assert clip.annotation == Annotation(None, "ann", 1763872001.5, "too dark")
    assert [report.stage for report in first.audit or ()] == ["video", "reasoner"]
    assert (clip.audit, rows["a3"].audit) == ((), None)
    assert [shadow.policy_version for shadow in first.shadows] == ["policy-8", "policy-9"]
    assert (first.media_available, rows["a3"].media_available) == (True, False)
    assert (first.prediction.policy_revision, first.prediction.audit_rate) == (3, 0.05)
    assert first.prediction.filename == ""
    assert (first.prediction.verdict.degradation_level, first.prediction.verdict.audit_rate) == (2, 0.05)
    assert first.prediction.features is not None and clip.prediction.features is not None
    assert np.array_equal(first.prediction.features, np.array([[0.5, -2.0, 3.0, 1e-3]], np.float16))
    assert np.array_equal(clip.prediction.features, np.arange(12).reshape(3, 4))
    backbone, signs, vlm = first.prediction.verdict.stages
    assert (backbone.preprocess_ms, backbone.rpc_ms, backbone.evidence.text_probability) == (2.25, 0.5, 0.875)
    assert [line.text for line in signs.evidence.text_lines] == ['saw thought gear "survey" hop_ms', "ROAD CLOSED é"]
    assert vlm.evidence.reasoning == 'A cone, and a sign "saw": 1.'
    assert (vlm.evidence.other_token_mass, vlm.evidence.from_choice) == (0.015625, True)
    assert clip.prediction.verdict.stages[1].evidence.frame_probabilities == [0.1, 0.25, 0.5]
    store.annotate([("a1", Annotation("none", "eve", 1763874000.0))])
    assert store.get("a1").annotation == Annotation("none", "eve", 1763874000.0)


def test_more_rows_than_a_page_are_all_rewritten(url: str) -> None:
    old = old_rows()
    row = next(row for row in old["answers"] if row["id"] == "a1")
    aside = next(row for row in old["asides"] if row["kind"] == "survey" and row["of"] == "a1")
    many = [{**row, "id": f"many-{number:04d}"} for number in range(1203)]
    deferred = [{**aside, "of": each["id"]} for each in many]
    write_old(url, {"answers": many, "asides": [*deferred, *({**each, "kind": "shadow"} for each in deferred)]})
    engine = engine_of(url)
    upgrade(engine)
    engine.dispose()
    new = read_new(url)
    assert [row["id"] for row in ordered(new["answers"])] == [row["id"] for row in many]
    assert all(each["verdict"] == renamed(json.loads(row["verdict"])) for each in new["answers"])
    assert len(new["asides"]) == 2406
    assert all(each["body"] == renamed(json.loads(aside["body"])) for each in new["asides"])


def test_text_that_is_no_json_is_unchanged(url: str) -> None:
    row = next(row for row in old_rows()["answers"] if row["id"] == "a4")
    write_old(url, {"answers": [{**row, "verdict": "cut off {"}, {**row, "id": "whole"}]})
    engine = engine_of(url)
    upgrade(engine)
    with engine.connect() as connection:
        found = {row.id: row.verdict for row in connection.execute(text("SELECT id, verdict FROM predictions"))}
    engine.dispose()
    assert found["a4"] == "cut off {"
    assert json.loads(found["whole"]) == renamed(json.loads(row["verdict"]))


def test_a_journal_of_the_first_revision_is_migrated(url: str, opened: Callable[..., Store]) -> None:
    old = old_rows()
    marks = [{name: value for name, value in row.items() if name != "note"} for row in old["marks"]]
    write_old(url, {"answers": old["answers"], "marks": marks}, "0001")
    assert opened().get("a1").annotation == Annotation("roadwork", "ann", 1763873000.0, "")


def test_nothing_has_an_old_name(opened: Callable[..., Store], url: str) -> None:
    opened()
    engine = engine_of(url)
    seen = inspect(engine)
    assert set(seen.get_table_names()) == {*TABLES.values(), "alembic_version"}
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            names = connection.execute(text("SELECT relname FROM pg_class WHERE relkind IN ('i', 'S')")).scalars().all()
            names = [*names, *connection.execute(text("SELECT conname FROM pg_constraint")).scalars()]
        assert not [name for name in names if name.startswith(("answers", "asides", "marks", "files"))]
    engine.dispose()


def test_a_database_keeps_its_old_state_when_the_migration_fails(
    url: str, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_old(url, old_rows())

    def fail(*_: object) -> None:
        raise RuntimeError("a power cut")

    with monkeypatch.context() as broken:
        broken.setattr("roadwork_serve.journal.format_1.upgrade_verdict", fail)
        with pytest.raises(RuntimeError, match="a power cut"):
            opened()
    engine = engine_of(url)
    assert "answers" in inspect(engine).get_table_names()
    engine.dispose()
    assert opened().count() == 16


def test_spooled_records_of_version_1_are_read() -> None:
    packed, records = (DATA / "spool-1.records").read_bytes(), list[bytes]()
    while packed:
        size = int.from_bytes(packed[:4], "big")
        records.append(packed[4 : 4 + size])
        packed = packed[4 + size :]
    assert {record[0] for record in records} == {1}
    read = [decode(record) for record in records]
    first, clip, bare = (record for record in read if isinstance(record, PredictionRecord))
    assert (first.id, first.created_at_s, first.policy_revision, first.audit_rate) == (
        "a1",
        1763871234.123456789,
        3,
        0.05,
    )
    assert first.media is not None and len(first.media) == first.size == 43
    assert first.features is not None and first.features.tolist() == [[0.5, -2.0, 3.0, float(np.float16(1e-3))]]
    assert [report.stage for report in first.verdict.stages] == ["backbone", "signs", "vlm"]
    assert first.verdict.stages[2].evidence.reasoning == 'A cone, and a sign "saw": 1.'
    assert (clip.origin, clip.verdict.media, clip.audit_rate) == ("batch", "clip", 1 / 3)
    assert (bare.origin, bare.features, bare.media) == ("handle", None, None)
    deferred = [record for record in read if isinstance(record, DeferredResult)]
    assert [(each.prediction_id, each.kind) for each in deferred] == [
        ("a1", "audit"),
        ("a2", "audit"),
        ("a1", "shadow"),
        ("a1", "shadow"),
        ("never-came", "audit"),
    ]
    assert [report.stage for report in deferred[0].stages] == ["video", "reasoner"]
    assert deferred[2].verdict is not None and deferred[2].verdict.degradation_level == 1
