import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from roadwork_serve.batch.inputs import InputFile
from roadwork_serve.batch.parts import BatchRun, BatchTotals, RunSpec, Scored, encode_part
from roadwork_serve.errors import BrokenMedia, ConfigError
from roadwork_serve.schema import Exit, StageReport, Verdict


def spec(**changes: Any) -> RunSpec:
    fields = {
        "source": "/photos",
        "match": (),
        "column": None,
        "profile": {},
        "policy": {"version": "a"},
        "version": "1",
    }
    return RunSpec.model_validate(fields | changes)


def files(count: int) -> list[InputFile]:
    return [InputFile(f"{at:04}.jpg", f"/photos/{at:04}.jpg", size=at) for at in range(count)]


def verdict(degraded: bool = False) -> Verdict:
    return Verdict(
        answer_id="x",
        request_id="r",
        media="photo",
        label="roadwork",
        probability=0.75,
        exit=Exit(stage="vlm", reason="above_band"),
        degraded=degraded,
        stages=[
            StageReport(stage="backbone", outcome="answered", probability=0.5),
            StageReport(stage="signs", outcome="skipped"),
            StageReport(stage="vlm", outcome="answered", probability=0.7),
        ],
        policy_version="p",
        profile="mini",
        elapsed_ms=3.0,
    )


def scored(file: InputFile, degraded: bool = False) -> Scored:
    if file.size == 3:
        return Scored.rejected(file.name, BrokenMedia("it is cut"))
    return Scored(file.name, verdict(degraded))


def begun(out: Path, count: int = 300) -> BatchRun:
    run = BatchRun(out)
    run.check(spec())
    run.start(spec(), files(count))
    return run


def keep(run: BatchRun, *numbers: int) -> None:
    for number, batch in run.remaining()[1]:
        if number in numbers:
            run.save_part(number, encode_part([scored(file, degraded=file.size == 4) for file in batch]))


def test_every_file_appears_once_in_listing_order(tmp_path: Path):
    run = begun(tmp_path / "scores.parquet")
    keep(run, 2, 0, 1)
    assert run.finish() == BatchTotals(299, 1, 1, ("0003.jpg: it is cut",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.parquet", "scores.rejects.parquet"]
    rows = pq.read_table(run.out).to_pylist()
    assert [row["file"] for row in rows] == [file.name for file in files(300) if file.size != 3]
    assert rows[0] | {"verdict": None} == {
        "file": "0000.jpg",
        "media": "photo",
        "label": "roadwork",
        "probability": 0.75,
        "exit_stage": "vlm",
        "exit_reason": "above_band",
        "degraded": False,
        "policy_version": "p",
        "profile": "mini",
        "elapsed_ms": 3.0,
        "p_backbone": 0.5,
        "p_closeup": None,
        "p_signs": None,
        "p_vlm": 0.7,
        "p_reasoner": None,
        "p_video": None,
        "verdict": None,
    }
    assert Verdict.model_validate_json(rows[0]["verdict"]) == verdict()
    assert pq.read_table(run.rejects).to_pylist() == [
        {"file": "0003.jpg", "problem": "broken-media", "status": 422, "detail": "it is cut"}
    ]


def test_an_interrupted_run_resumes_with_the_remaining_batches(tmp_path: Path):
    keep(begun(tmp_path / "s.parquet"), 1)
    again = BatchRun(tmp_path / "s.parquet")
    again.check(spec())
    assert again.started
    total, left = again.remaining()
    assert total == 300 and [number for number, _ in left] == [0, 2]
    assert left[1][1][0] == files(300)[256]


def test_a_batch_is_stored_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = begun(tmp_path / "s.parquet")

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(ConfigError, match="No space left on device"):
        keep(run, 0)
    assert [number for number, _ in run.remaining()[1]] == [0, 1, 2]


def test_rows_of_two_tables_are_never_in_one_batch(tmp_path: Path):
    run = BatchRun(tmp_path / "s.parquet")
    rows = [InputFile(f"{name}#{row}", name, row) for name in "ab" for row in range(100)]
    run.start(spec(), rows)
    batches = [batch for _, batch in run.remaining()[1]]
    assert [len(lot) for lot in batches] == [64, 36, 64, 36]
    assert [file for lot in batches for file in lot] == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": {"version": "b"}}, "a different policy"),
        ({"source": "/more", "version": "2"}, "a different source and version"),
        ({"match": ("*.jpg",)}, "a different match"),
    ],
)
def test_a_run_with_other_settings_does_not_resume(tmp_path: Path, changes: dict[str, Any], message: str):
    begun(tmp_path / "s.parquet")
    with pytest.raises(ConfigError, match=message):
        BatchRun(tmp_path / "s.parquet").check(spec(**changes))


def test_an_existing_output_is_not_overwritten(tmp_path: Path):
    (tmp_path / "s.parquet").touch()
    with pytest.raises(ConfigError, match="already exists; name another --out"):
        BatchRun(tmp_path / "s.parquet").check(spec())


def test_a_part_is_a_small_plain_table(tmp_path: Path):
    (tmp_path / "part").write_bytes(encode_part([scored(file) for file in files(4)]))
    table = pq.read_table(tmp_path / "part").to_pylist()
    assert [row["file"] for row in table] == ["0000.jpg", "0001.jpg", "0002.jpg", "0003.jpg"]
    assert json.loads(table[3]["problem"])["status"] == 422 and table[3]["verdict"] is None


def test_two_runs_cannot_write_the_same_output_at_once(tmp_path: Path):
    first, second = BatchRun(tmp_path / "s.parquet"), BatchRun(tmp_path / "s.parquet")
    with first.locked():
        with pytest.raises(ConfigError, match="another run is writing"), second.locked():
            raise AssertionError("it was let in")
    with second.locked():
        assert not second.started


def test_the_ending_of_the_output_is_its_format(tmp_path: Path):
    tables: dict[str, list[dict[str, Any]]] = {}
    for ending in (".parquet", ".csv", ".JSONL"):
        run = begun(tmp_path / f"s{ending}", 5)
        keep(run, 0)
        assert run.finish().verdicts == 4
        for path in (run.out, run.rejects):
            match ending:
                case ".parquet":
                    tables[path.name] = pq.read_table(path).to_pylist()
                case ".csv":
                    tables[path.name] = list(csv.DictReader(path.read_text().splitlines()))
                case _:
                    tables[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
    assert tables["s.parquet"] == tables["s.JSONL"] and tables["s.rejects.parquet"] == tables["s.rejects.JSONL"]
    assert [row["file"] for row in tables["s.csv"]] == [row["file"] for row in tables["s.parquet"]]
    assert [row["detail"] for row in tables["s.rejects.csv"]] == ["it is cut"]
    assert list(tables["s.csv"][0]) == list(tables["s.parquet"][0])


def test_an_output_of_no_known_format_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"must end in \.parquet or \.csv or \.jsonl"):
        BatchRun(tmp_path / "s.xlsx").check(spec())
