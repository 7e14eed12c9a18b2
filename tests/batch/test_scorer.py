from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roadwork_serve.batch.inputs import open_source
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
