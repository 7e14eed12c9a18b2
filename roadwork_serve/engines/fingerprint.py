"""Fingerprints of checkpoints, by which heads identify their backbone."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

_CHUNK = 8 * 2**20
_DERIVED = re.compile(r"head|\.int8$")


def fingerprint(model: str) -> str:
    """Return the hex SHA-256 of the backbone's weights in a folder, or in the local cache of a hub id.

    It is empty if there are none. Folders with the same weights have the same fingerprint.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(model, "config.json")
        if not isinstance(config, str):
            return ""
        folder = Path(config).parent
    # A graph beside a safetensors file reads its weights from there, and one in 8 bits is made from the other.
    by_suffix = (sorted(folder.glob(f"*.{suffix}")) for suffix in ("safetensors", "onnx"))
    files = next(
        (some for found in by_suffix if (some := [each for each in found if not _DERIVED.search(each.stem)])), []
    )
    return _of(tuple((str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files)) if files else ""


@lru_cache(maxsize=8)
def _of(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
