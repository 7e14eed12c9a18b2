"""Files and folders that are replaced in one step, or not at all."""

import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from roadwork_serve.errors import ConfigError
from roadwork_serve.printable import writable


@contextmanager
def replace_file(path: Path, *, mode: int = 0o666, os_errors: bool = False, sync: bool = False) -> Iterator[Path]:
    """Yield an empty draft to write to; it takes the name of `path` when the block ends, and is deleted if it raises.

    Readers of `path` see the old content or all of the new. Two writers of one path each have a draft of their own; the
    last to finish wins.

    Args:
        path: the file to replace; folders above it are created.
        mode: permissions of a new file, less the umask.
        os_errors: raise OSError as it is, for callers that handle it, instead of ConfigError.
        sync: wait until the file is on the disk, so that a power cut leaves the old one or the new one.

    Raises:
        ConfigError: if the disk refuses, with the path and the reason.
    """
    draft = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = _empty_draft(path, mode)
            yield draft
            if sync:
                sync_path(draft)
            draft.replace(path)
            if sync:
                sync_path(path.parent)
        finally:
            if draft is not None:
                draft.unlink(missing_ok=True)
    except OSError as error:
        if os_errors:
            raise
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; name another file") from None


def sync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically. Raises ConfigError if the disk refuses."""
    with replace_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain data and pydantic models as JSON atomically; NaN and infinity become null, half surrogate pairs text.

    Raises ConfigError if the disk refuses.
    """
    write_text(path, json.dumps(_plain(value), indent=2) + "\n")


@contextmanager
def replace_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a draft folder; it takes the name of `path` when the block ends, and is deleted if it raises.

    Args:
        path: the folder to create or replace.
        overwrite: whether a folder with content may be replaced.

    Raises:
        ConfigError: if the folder may not be replaced, or the disk refuses.
    """
    check_vacant(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; name another folder") from None
    old = draft.with_name(f"{draft.name}.old")
    try:
        yield draft
        draft.chmod(0o777 & ~_umask())
        check_vacant(path, overwrite)
        if path.exists() and any(path.iterdir()):
            path.rename(old)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_vacant(path: Path, overwrite: bool) -> None:
    """Raise ConfigError when the path is a file, or a folder with content that may not be overwritten."""
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not overwrite):
        raise ConfigError(f"{path} already exists; give another --out, or pass --replace")


def _empty_draft(path: Path, mode: int) -> Path:
    """Create a file beside `path`, hidden, with its suffix and a name of its own."""
    while True:
        draft = path.with_name(f".{path.stem[:100]}-{secrets.token_hex(6)}{path.suffix}")
        try:
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
        except FileExistsError:
            continue
        return draft


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
