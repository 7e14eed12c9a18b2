from pathlib import Path

import pytest

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import read_rows, write_rows
from tests.evaluation.fakes import row


def test_rows_round_trip_through_a_file(tmp_path: Path) -> None:
    metadata = SampleMetadata(
        "photo-7.jpg", "photo", True, seed=7, needs="vlm", activity="working", tags=("town", "rain")
    )
    rows = [
        row(metadata=metadata, records={"backbone": (1.5, 0.8), "signs": (None, 0.8), "vlm": (-2.0, None)}),
        row("b"),
    ]
    write_rows(tmp_path / "deep" / "rows.jsonl", rows)
    assert read_rows(tmp_path / "deep" / "rows.jsonl") == rows


def test_only_stages_of_the_cascade_count_as_entered() -> None:
    assert row(records={"backbone": (1.5, 0.8), "signs": (None, 0.8), "vlm": (-2.0, None)}).entered == (
        "backbone",
        "signs",
    )


def test_an_unreadable_file_is_an_error_that_names_the_command_to_create_it(tmp_path: Path) -> None:
    image = tmp_path / "photo.jpg"
    image.write_bytes(b"\xff\xd8\xff\xe0")
    for path in (tmp_path / "gone.jsonl", tmp_path, image):
        with pytest.raises(ConfigError, match=rf"{path} cannot be read: .*--all-stages --rows {path}`"):
            read_rows(path)


@pytest.mark.parametrize("line", ["{}", "not json", '{"metadata": {"name": "x"}, "records": []}'])
def test_an_invalid_line_is_an_error_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [row()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=r"rows\.jsonl, line 2 is not an evaluation row"):
        read_rows(path)
