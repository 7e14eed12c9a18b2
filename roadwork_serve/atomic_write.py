"""Files that are replaced whole or not at all."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roadwork_serve.errors import ConfigError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a draft to write to; it takes the name of `path` when the block ends well, and is deleted otherwise.

    Two processes that write the same path each have a draft of their own; the last to finish wins.
    Raises ConfigError when the disk refuses.
    """
    draft = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
            os.close(descriptor)
            draft = Path(name)
            draft.chmod(0o666 & ~_umask())
            yield draft
            draft.replace(path)
        finally:
            if draft is not None:
                draft.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; name another file") from None


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically. Raises ConfigError when the disk refuses."""
    with replace_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain data as JSON atomically; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


@contextmanager
def replace_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a draft folder; it takes the name of `path` when the block ends well, and is deleted otherwise.

    overwrite: whether a folder that exists may be replaced. Raises ConfigError when it may not, or the disk refuses.
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
