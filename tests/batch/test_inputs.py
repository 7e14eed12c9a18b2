import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roadwork_serve.batch.inputs import InputFile, open_source
from roadwork_serve.batch.parts import BatchRun, RunSpec, Scored, encode_part
from roadwork_serve.errors import ConfigError


def filled(folder: Path) -> Path:
    for name in ("b.jpg", "a/1.png", ".hidden/no.jpg", "a/.DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_includes_all_files_below_it_except_hidden_ones(tmp_path: Path):
    of = open_source(str(filled(tmp_path)))
    assert of.list_files() == [
        InputFile("a/1.png", f"{tmp_path}/a/1.png", size=7),
        InputFile("b.jpg", f"{tmp_path}/b.jpg", size=5),
    ]
    assert of.read(of.list_files()[1], 100) == b"b.jpg"
    assert of.read(of.list_files()[1], 2) == b"b.j", "no more than is allowed, and one to detect that there is more"


def test_only_matching_files_are_listed(tmp_path: Path):
    assert [file.name for file in open_source(str(filled(tmp_path)), ["*.png", "c*"]).list_files()] == ["a/1.png"]
    with pytest.raises(ConfigError, match=r"no file that matches \*.webp"):
        open_source(str(tmp_path), ["*.webp"]).list_files()


def test_a_single_file(tmp_path: Path):
    path = tmp_path / "only.jpg"
    path.write_bytes(b"1")
    assert [file.name for file in open_source(str(path)).list_files()] == ["only.jpg"]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("gone", "gone does not exist"),
        ("s3:///", "not a readable location"),
        ("ftp://host/x", "is not a readable location"),
    ],
)
def test_an_invalid_source_is_an_error(named: str, message: str):
    with pytest.raises(ConfigError, match=message):
        open_source(named).list_files()


def test_an_empty_folder_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="has no file; name a folder"):
        open_source(str(tmp_path)).list_files()


def pictures(path: Path, count: int, groups: int) -> Path:
    column = pa.array([{"bytes": b"%d" % row if row != 3 else None, "path": None} for row in range(count)])
    pq.write_table(pa.table({"label": [0] * count, "image": column}), path, row_group_size=-(-count // groups))
    return path


def test_rows_with_images_are_named_by_their_number(tmp_path: Path):
    path = pictures(tmp_path / "train.parquet", 300, groups=3)
    of = open_source(str(path))
    listed = of.list_files()
    assert listed[0] == InputFile("train.parquet#0", str(path), 0) and len(listed) == 300
    wanted = [listed[row] for row in (2, 3, 99, 100, 170, 299)]
    assert [data for _, data in of.read_rows(wanted, 100)] == [b"2", b"", b"99", b"100", b"170", b"299"]
    assert [file for file, _ in of.read_rows(wanted, 100)] == wanted


def test_a_folder_of_tables_lists_their_rows(tmp_path: Path):
    pictures(tmp_path / "1.parquet", 4, groups=1)
    pictures(tmp_path / "0.parquet", 4, groups=1)
    assert [file.name for file in open_source(str(tmp_path)).list_files()][::3] == [
        "0.parquet#0",
        "0.parquet#3",
        "1.parquet#2",
    ]


def test_a_table_of_paths_lists_each_file_once(tmp_path: Path):
    table = tmp_path / "list.parquet"
    pq.write_table(pa.table({"file": ["a/1.png", "b.jpg", None, "b.jpg"], "n": [1, 2, 3, 4]}), table)
    of = open_source(str(table))
    assert of.list_files() == [
        InputFile("a/1.png", f"{tmp_path}/a/1.png"),
        InputFile("b.jpg", f"{tmp_path}/b.jpg"),
        InputFile("list.parquet#2", str(table), problem="row 2 of the table has no path"),
    ]
    filled(tmp_path)
    assert of.read(of.list_files()[1], 100) == b"b.jpg"


def test_a_path_in_a_table_is_understood_or_named(tmp_path: Path) -> None:
    filled(tmp_path)
    texts = ["a\\1.png", f"{tmp_path}/b.jpg", f"file://{tmp_path}/b.jpg", "https://example.org/a.jpg", "x" * 5000, "\0"]
    column = pa.array([*texts, "C:\\gone.jpg"]).dictionary_encode()
    pq.write_table(pa.table({"path": column}), tmp_path / "list.parquet")
    of = open_source(str(tmp_path / "list.parquet"))
    one, two, *wrong, gone = of.list_files()
    assert [of.read(each, 100) for each in (one, two)] == [b"a/1.png", b"b.jpg"]
    assert ["is a URL" in str(wrong[0].problem), *("no path" in str(each.problem) for each in wrong[1:])] == [True] * 3
    assert max(len(each.name) for each in of.list_files()) < 300
    with pytest.raises(OSError, match="a path on a drive of Windows"):
        of.read(gone, 100)


def test_tables_in_several_folders_may_name_the_same_file(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(folder.encode())
        pq.write_table(pa.table({"file": ["1.jpg"]}), tmp_path / folder / "list.parquet")
    of = open_source(str(tmp_path))
    assert {each.name: of.read(each, 9) for each in of.list_files()} == {"a/1.jpg": b"a", "b/1.jpg": b"b"}


def test_tables_are_told_by_their_bytes_and_the_rest_is_told(tmp_path: Path) -> None:
    for name in ("part-0.snappy.parquet", "short.pq", "UPPER.PARQUET", "data/train"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pictures(tmp_path / name, 1, groups=1)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "README.md").write_text("# card")
    (tmp_path / "photo.parquet").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 not")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "other.parquet")
    listed = {each.name: each for each in open_source(str(tmp_path)).list_files()}
    assert list(listed) == [
        "README.md", "UPPER.PARQUET#0", "_SUCCESS", "cut.parquet", "data/train#0", "other.parquet",
        "part-0.snappy.parquet#0", "photo.parquet", "short.pq#0",
    ]  # fmt: skip
    assert {name for name, each in listed.items() if each.row is not None} == {
        "UPPER.PARQUET#0", "data/train#0", "part-0.snappy.parquet#0", "short.pq#0",
    }  # fmt: skip
    problems = {name: each.problem for name, each in listed.items() if each.problem}
    assert list(problems) == ["cut.parquet", "other.parquet"]
    assert "cannot be read as Parquet" in problems["cut.parquet"] and "has no column" in problems["other.parquet"]


def test_structs_with_a_path_alone_are_followed(tmp_path: Path) -> None:
    filled(tmp_path)
    cells = [{"bytes": None, "path": path} for path in ("a/1.png", "a\\1.png", f"{tmp_path}/b.jpg", "gone", None)]
    cells.append({"bytes": b"own", "path": "b.jpg"})
    for kind in (pa.binary(), pa.null()):
        column = pa.array(
            cells[:5] if kind == pa.null() else cells, pa.struct([("bytes", kind), ("path", pa.string())])
        )
        pq.write_table(pa.table({"image": column}), tmp_path / "t.parquet")
        of = open_source(str(tmp_path / "t.parquet"))
        listed = of.list_files()
        assert [each.name for each in listed] == [f"t.parquet#{row}" for row in range(len(column))]
        *found, gone, empty = (data for _, data in of.read_rows(listed[:5], 3))
        assert found == [b"a/1.", b"a/1.", b"b.jp"] and empty == b""
        assert isinstance(gone, OSError) and f"{tmp_path}/gone" in str(gone)
    pq.write_table(pa.table({"image": pa.array(cells[5:])}), tmp_path / "t.parquet")
    assert [data for _, data in of.read_rows(listed[:1], 9)] == [b"own"]


def test_every_name_is_listed_and_read(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/stra\xdfe"))
    odd.mkdir()
    (odd / "plain.jpg").write_bytes(b"1")
    pictures(tmp_path / "t", 1, groups=1).rename(odd / "t")
    of = open_source(str(tmp_path))
    photo, row = of.list_files()
    assert (photo.name, of.read(photo, 9)) == (r"stra\xdfe/plain.jpg", b"1")
    assert (row.name, list(of.read_rows([row], 9))) == (r"stra\xdfe/t#0", [(row, b"0")])
    run = BatchRun(odd / "s.parquet")
    run.start(RunSpec(source="", match=(), column=None, profile={}, policy={}, version=""), [photo, row])
    assert [file for _, files in run.remaining()[1] for file in files] == [photo, row]
    for number in range(2):
        run.save_part(number, encode_part([Scored.rejected("a", ConfigError("b"))]))
    assert run.finish().rejects == 2


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    filled(folder)
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep/c.jpg").write_bytes(b"c")
    for name, target in {
        "self": ".", "a/up": "..", "linked": str(elsewhere), "twice": str(elsewhere), "0": "a", "up": "..",
        "gone": "nowhere", "loop": "loop", "d.jpg": "b.jpg",
    }.items():  # fmt: skip
        (folder / name).symlink_to(target)
    listed = {each.name: each.problem for each in open_source(str(folder)).list_files()}
    assert listed == {
        "a/1.png": None, "b.jpg": None, "d.jpg": None, "linked/deep/c.jpg": None,
        "gone": "it is a link to nowhere: No such file or directory",
        "loop": "it is a link to loop: Too many levels of symbolic links",
    }  # fmt: skip


def test_a_folder_that_cannot_be_listed_is_a_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("roadwork_serve.local_files.os.scandir", refusing)
    listed = {each.name: each.problem for each in open_source(str(tmp_path)).list_files()}
    assert listed == {"a": "the folder cannot be listed: Permission denied", "b.jpg": None}


@pytest.mark.parametrize(
    ("columns", "column", "message"),
    [
        ({"n": [1]}, None, "no column named image or bytes or file or path: it has n; name one with --column"),
        ({"image": ["x"]}, "picture", "no column 'picture': it has image"),
        ({"image": [1.5]}, None, "image is double; images must be bytes"),
        ({"image": pa.array([], pa.binary())}, None, "has no rows"),
    ],
)
def test_a_table_without_images_is_an_error(
    tmp_path: Path, columns: dict[str, object], column: str | None, message: str
):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=message):
        open_source(str(tmp_path / "t.parquet"), column=column).list_files()


def test_an_invalid_table_is_an_error(tmp_path: Path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        open_source(str(tmp_path / "t.parquet")).list_files()


class Bucket(BaseHTTPRequestHandler):
    """Serves the S3 calls that reading needs, for a bucket named roads."""

    keys: dict[str, bytes] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, whole: bool) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix("/roads").lstrip("/")
        if "list-type" in parts.query:
            return self._send(200, self._list(parse_qs(parts.query)), whole, "application/xml")
        if key not in self.keys:
            return self._send(404 if key else 200, b"", whole)
        data, asked = self.keys[key], self.headers.get("range")
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            piece = data[int(start) : int(end) + 1 if end else None]
            return self._send(206, piece, whole, total=len(data), start=int(start))
        return self._send(200, data, whole)

    def _list(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        found = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(data)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, data in sorted(self.keys.items())
            if key.startswith(prefix)
        )
        return (
            f"<ListBucketResult><Name>roads</Name><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        )

    def _send(
        self, status: int, data: bytes, whole: bool, kind: str = "image/jpeg", total: int | None = None, start: int = 0
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", kind)
        if total is not None:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
        self.end_headers()
        if whole:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


@contextmanager
def bucket(keys: dict[str, bytes]) -> Iterator[str]:
    """Serve a bucket, and yield the query to append to its URLs."""
    handler = type("Roads", (Bucket,), {"keys": keys})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&allow_bucket_creation=false"
        finally:
            server.shutdown()


def test_a_bucket_is_read_like_a_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [b"one", b"two"]}), table)
    with bucket({"drive/1/a.jpg": b"aaa", "drive/b.jpg": b"bb", "other.parquet": table.getvalue()}) as rest:
        of = open_source(f"s3://roads/drive{rest}")
        assert [(file.name, file.size) for file in of.list_files()] == [("1/a.jpg", 3), ("b.jpg", 2)]
        assert of.read(of.list_files()[0], 10) == b"aaa"
        rows = open_source(f"s3://roads/other.parquet{rest}")
        assert [data for _, data in rows.read_rows(rows.list_files(), 100)] == [b"one", b"two"]
