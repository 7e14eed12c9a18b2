import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roadwork_serve.batch.inputs import open_source
from roadwork_serve.batch.parts import encode_part
from roadwork_serve.batch.scorer import Scorer
from roadwork_serve.errors import ModelError
from tests.evaluation.fakes import BLUE, GREY, POLICY, RED, jpeg, mp4, open_by_colour, profile, write_jpeg


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jpeg(tmp_path / "red.jpg", RED)
    write_jpeg(tmp_path / "blue.jpg", BLUE)
    write_jpeg(tmp_path / "grey.jpg", GREY)
    (tmp_path / "clip.mp4").write_bytes(mp4(RED))
    (tmp_path / "cut.jpg").write_bytes(jpeg(RED)[:400])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("these are words")
    return tmp_path


@pytest.fixture
def scorer(folder: Path) -> Iterator[Scorer]:
    scorer = Scorer(open_source(str(folder)), profile(), POLICY, opener=open_by_colour)
    yield scorer
    scorer.close()


def test_every_file_has_a_verdict_or_a_reason(folder: Path, scorer: Scorer):
    scored = {each.name: each for each in scorer.score(open_source(str(folder)).list_files())}
    outcomes = {name: each.verdict.label if each.verdict else each.problem for name, each in scored.items()}
    assert {name: label for name, label in outcomes.items() if isinstance(label, str)} == {
        "red.jpg": "roadwork",
        "blue.jpg": "none",
        "grey.jpg": "roadwork",
        "clip.mp4": "roadwork",
    }
    wrong = {name: problem["status"] for name, problem in outcomes.items() if isinstance(problem, dict)}
    assert wrong == {"cut.jpg": 422, "empty.jpg": 422, "notes.txt": 415}
    grey = scored["grey.jpg"].verdict
    assert grey and grey.exit.stage == "reasoner", "what stage 1 is not sure of goes on, as in the server"


def test_a_missing_or_too_large_file_is_rejected(folder: Path, scorer: Scorer):
    listed = {file.name: file for file in open_source(str(folder)).list_files()}
    (folder / "red.jpg").unlink()
    with (folder / "big.jpg").open("wb") as big:
        big.truncate(profile().media.max_bytes + 1)
    files = [listed["red.jpg"], *(file for file in open_source(str(folder)).list_files() if file.name == "big.jpg")]
    gone, big = (each.problem for each in scorer.score(files))
    assert gone and gone["status"] == 400 and "No such file" in gone["detail"]
    assert big and big["status"] == 413 and "max_bytes" in big["detail"]


def test_rows_of_a_table_are_scored(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": [jpeg(RED), None, b"no picture", jpeg(BLUE)]}), path)
    of = open_source(str(path))
    scorer = Scorer(of, profile(), POLICY, opener=open_by_colour)
    try:
        scored = scorer.score(of.list_files())
    finally:
        scorer.close()
    assert [each.verdict.label if each.verdict else None for each in scored] == ["roadwork", None, None, "none"]
    assert next(each.problem["detail"] for each in scored if each.problem) == "the row has no image"


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path: Path):
    def refuse(*_: object) -> dict[str, object]:
        raise ModelError("weights are missing")

    with pytest.raises(ModelError, match="weights are missing"):
        Scorer(open_source(str(tmp_path)), profile(), POLICY, opener=refuse)  # type: ignore[arg-type]


def test_every_file_of_a_mixed_folder_has_a_result(folder: Path):
    """Tables, pictures, links, junk and names that are not UTF-8, each once."""
    cells = [{"bytes": None, "path": "red.jpg"}, {"bytes": None, "path": "gone.jpg"}, {"bytes": jpeg(BLUE), "path": ""}]
    column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column}), folder / "a.pq")
    pq.write_table(pa.table({"image": [jpeg(RED)] * 300}), folder / "damaged.pq", row_group_size=100)
    data = bytearray((folder / "damaged.pq").read_bytes())
    data[8:2000] = bytes(1992)
    (folder / "damaged.pq").write_bytes(data)
    (folder / "b.jpg").symlink_to("nowhere")
    (folder / "_SUCCESS").touch()
    (folder / "x.crc").write_bytes(b"crc")
    write_jpeg(folder / os.fsdecode(b"stra\xdfe.jpg"), RED)
    of = open_source(str(folder))
    files = of.list_files()
    scorer = Scorer(of, profile(), POLICY, opener=open_by_colour)
    try:
        tables = {path: [file for file in files if file.path == path and file.row is not None] for path in {
            file.path for file in files if file.row is not None
        }}  # fmt: skip
        separate = [file for file in files if file.row is None]
        scored = {each.name: each for lot in (separate, *tables.values()) for each in scorer.score(lot)}
    finally:
        scorer.close()
    labels = {name: each.verdict.label for name, each in scored.items() if each.verdict}
    assert labels == {
        "red.jpg": "roadwork", "blue.jpg": "none", "grey.jpg": "roadwork", "clip.mp4": "roadwork",
        "a.pq#0": "roadwork", "a.pq#2": "none", r"stra\xdfe.jpg": "roadwork",
    }  # fmt: skip
    details = {name: each.problem["detail"] for name, each in scored.items() if each.problem}
    assert f"{folder}/gone.jpg" in details["a.pq#1"] and "a link to nowhere" in details["b.jpg"]
    assert details["_SUCCESS"] == "the file is empty" and {"x.crc", "notes.txt", "cut.jpg", "empty.jpg"} < set(details)
    assert sum(name.startswith("damaged.pq") for name in details) == 300
    assert "damaged.pq cannot be read as Parquet" in details["damaged.pq#299"]
    encode_part(list(scored.values()))
