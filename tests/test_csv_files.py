"""CSV files written by people."""

import csv
import io
from pathlib import Path

import pytest

from roadwork_serve.csv_files import CsvRow, read_csv
from roadwork_serve.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def test_cells_are_read_by_column_without_space_around_them(path: Path) -> None:
    path.write_text("id,label,note\na, roadwork ,\nb,none\n\nc,none,x,too much\n")
    table = read_csv(path, required=("id", "label"))
    assert table.columns == ("id", "label", "note")
    assert [(row["id"], row["label"], row["note"]) for row in table.rows] == [
        ("a", "roadwork", ""),
        ("b", "none", ""),
        ("c", "none", "x"),
    ]
    assert table.rows[0]["other"] == ""


def test_line_numbers_are_those_of_the_file(path: Path) -> None:
    path.write_text('id,note\na,"two\nlines"\nb,\n\nc,\n')
    assert [row.line for row in read_csv(path).rows] == [3, 4, 6]


def test_files_saved_by_spreadsheets_are_read(path: Path) -> None:
    path.write_bytes("\ufeffid,label\r\nä,none\r\n".encode())
    (row,) = read_csv(path, required=("id", "label")).rows
    assert (row["id"], row["label"]) == ("ä", "none")


def test_a_missing_column_is_named(path: Path) -> None:
    path.write_text("id,lable\na,none\n")
    with pytest.raises(ConfigError, match="no column 'label'; its first line must name id and label; it has id, lable"):
        read_csv(path, required=("id", "label"))


def test_an_empty_file_has_no_columns(path: Path) -> None:
    path.write_text("")
    assert read_csv(path).columns == ()
    with pytest.raises(ConfigError, match="no column 'id'"):
        read_csv(path, required=("id",))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'id\n"' + b"x" * 200_000 + b'"\n'])
def test_an_invalid_csv_file_is_a_configuration_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"labels.csv cannot be read as CSV"):
        read_csv(path)


def test_a_missing_file_is_a_configuration_error(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"labels.csv cannot be read as CSV: .*No such file"):
        read_csv(path)


def test_errors_name_the_file_line_and_column(path: Path) -> None:
    row = CsvRow(path, 7, {"label": "roadworks", "file": " "})
    with pytest.raises(ConfigError, match=r"labels.csv, line 7: label 'roadworks'; write one of roadwork, none"):
        row.choice("label", ("roadwork", "none"))
    with pytest.raises(ConfigError, match=r"labels.csv, line 7: file is empty; write its path"):
        row.required("file", "write its path")
    with pytest.raises(ConfigError, match=r"line 7: label 'roadworks'; write one of yes, nothing"):
        row.choice("label", ("yes", ""))


TEXT = "File, label ,group\r\nstraße.jpg,roadwork,g0\r\n,,\r\nb;c.jpg,none,g1\r\n"


def separated(separator: str) -> str:
    """Return the same table with another separator; a cell that holds it is quoted."""
    rows = csv.reader(io.StringIO(TEXT, newline=""))
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_what_spreadsheets_save_is_read(path: Path, separator: str, encoding: str) -> None:
    path.write_bytes(separated(separator).encode(encoding))
    table = read_csv(path, required=("file", "label"))
    assert table.columns == ("file", "label", "group")
    assert [(row["file"], row["label"], row["group"]) for row in table.rows] == [
        ("straße.jpg", "roadwork", "g0"),
        ("b;c.jpg", "none", "g1"),
    ]


@pytest.mark.parametrize(("encoding", "told"), [("cp1252", True), ("latin-1", True), ("utf-8", False)])
def test_an_encoding_that_is_guessed_is_told(
    path: Path, encoding: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_bytes("id,note\na,x\nb,straße\n".encode(encoding))
    read_csv(path)
    output = capsys.readouterr()
    assert ("labels.csv is not UTF-8, and is read as Windows-1252: line 3 is 'b,straße'" in output.err) == told
    assert not output.out


def test_the_hint_that_excel_writes_is_no_header(path: Path) -> None:
    path.write_text("sep=;\nid;label\na,b;none\n")
    (row,) = read_csv(path, required=("id", "label")).rows
    assert (row["id"], row["label"], row.line) == ("a,b", "none", 3)


def test_a_separator_inside_other_columns_does_not_mislead(path: Path) -> None:
    path.write_text("id,a;b;c;d,label\n1,2,none\n")
    (row,) = read_csv(path, required=("id", "label")).rows
    assert (row["id"], row["label"]) == ("1", "none")
