"""Heads that policies name: below one folder, regular files of sensible size, and no wait for a disk that hangs."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from roadwork_serve.engines import head_files
from roadwork_serve.engines.head_files import HeadFiles, TimedLoader, heads_folder, read_head_files
from roadwork_serve.errors import ModelError

FILES = HeadFiles(b"{}", b"weights")


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "head.json").write_bytes(FILES.settings)
    (folder / "head.safetensors").write_bytes(FILES.weights)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "heads/one")
    make(tmp_path / "heads/round-2/head")
    make(tmp_path / "elsewhere/secret")
    return tmp_path / "heads"


def test_the_folder_is_configured_or_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path))
    assert heads_folder(None) == tmp_path / "heads"
    assert heads_folder(str(tmp_path / "a")) == tmp_path / "a"


@pytest.mark.parametrize("name", ["one", "./one", "one/", "round-2/head", "{root}/one", "{root}/round-2/head"])
def test_a_head_is_named_by_its_folder(root: Path, name: str) -> None:
    assert read_head_files(root, name.format(root=root)) == FILES


@pytest.mark.parametrize(
    "name",
    ["..", "../elsewhere/secret", "one/../../elsewhere/secret", "/etc", "/proc/self", "//evil.com/share", "{root}",
     "{root}/../elsewhere/secret", "{elsewhere}/secret", "{elsewhere}/missing", ".", "a\0b", "a/" * 9 + "b"],
)  # fmt: skip
def test_names_outside_the_folder_are_refused_alike(root: Path, name: str) -> None:
    elsewhere = root.parent / "elsewhere"
    with pytest.raises(ModelError) as caught:
        read_head_files(root, name.format(root=root, elsewhere=elsewhere))
    assert (
        str(caught.value) == f"a policy names heads by their folder below {root}: put the head there and give its name"
    )


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parents[2] / "elsewhere/secret" / path.name)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _huge(path: Path) -> None:
    os.truncate(path, 2**30)


def _device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("file", ["head.json", "head.safetensors"])
@pytest.mark.parametrize("spoil", [Path.unlink, _link, _fifo, _folder, _huge, _device])
def test_files_that_are_not_regular_and_of_sensible_size_are_refused_alike(
    root: Path, file: str, spoil: Callable[[Path], None]
) -> None:
    spoil(root / "one" / file)
    with pytest.raises(ModelError) as caught:
        read_head_files(root, "one")
    wanted = f"there is no head one below {root}: it takes head.json and head.safetensors, as regular files"
    assert str(caught.value) == wanted


def test_links_to_folders_are_not_followed(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "elsewhere")
    for name in ("link", "link/secret", "link/missing"):
        with pytest.raises(ModelError, match=f"there is no head {name} below"):
            read_head_files(root, name)


def test_the_folder_itself_may_be_a_link_or_missing(root: Path) -> None:
    (root.parent / "other").symlink_to(root)
    assert read_head_files(root.parent / "other", "one") == FILES
    with pytest.raises(ModelError, match="there is no head one below"):
        read_head_files(root.parent / "none", "one")


def test_no_descriptor_stays_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("one", "round-2/head", "round-2/none", "none"):
        try:
            read_head_files(root, name)
        except ModelError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_load_that_hangs_blocks_its_caller_once_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_files, "_READ_S", 0.05)
    back = threading.Event()

    def slow(name: str) -> str:
        if name != "good":
            back.wait()
        return name

    loader = TimedLoader(slow)
    with pytest.raises(ModelError, match=r"reading the head bad takes longer than 0.05 s: check the disk"):
        loader.load("bad")
    monkeypatch.setattr(head_files, "_READ_S", 60.0)
    began = time.monotonic()
    with pytest.raises(ModelError, match="takes longer"):
        loader.load("bad")
    assert time.monotonic() - began < 10
    assert loader.load("good") == "good"
    back.set()
    while loader._pending["bad"].done() is False:
        time.sleep(0.001)
    assert loader.load("bad") == "bad"


def test_loads_that_hang_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_files, "_READ_S", 0.01)
    back = threading.Event()
    loader = TimedLoader(lambda name: back.wait())
    for name in "abcd":
        with pytest.raises(ModelError, match="takes longer"):
            loader.load(name)
    with pytest.raises(ModelError, match="4 other heads are still being read"):
        loader.load("e")
    back.set()


def test_errors_of_the_load_are_raised() -> None:
    def fails(name: str) -> str:
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        TimedLoader(fails).load("a")
