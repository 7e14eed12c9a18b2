"""Checkpoints with random weights in the layout of the real ones, written once per test session."""

import fcntl
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from roadwork_serve.testbed.minis.untrained import (
    write_backbone,
    write_hybrid_vlm,
    write_reader,
    write_video,
    write_vlm,
)

SESSION = os.environ.get("RAY_TMPDIR")  # which pytest's workers share


@cache
def _root() -> Path:
    root = Path(SESSION or mkdtemp()) / "untrained"
    root.mkdir(exist_ok=True)
    return root


def _written(name: str, write: Callable[[Path], object]) -> Path:
    """Return a folder, written by the first worker that needs it."""
    folder = _root() / name
    with (_root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = _root() / f"{name}.draft"
            write(draft)
            draft.rename(folder)
    return folder


@cache
def backbone(head: bool = True) -> Path:
    """Return a folder with a DINOv3 and, if wanted, a head."""
    return _written(f"backbone-{head}", lambda folder: write_backbone(folder, head))


@cache
def exported_backbone() -> Path:
    """Return an exported file of a DINOv3 with a head, for thumbnails of 32 pixels."""
    from roadwork_serve.engines.export import export_onnx  # the environment of vLLM cannot export
    from tests.engines.tiny import tiny_dino

    model = _written("dino", tiny_dino)  # the file has its path

    def write(folder: Path) -> None:
        folder.mkdir()
        export_onnx(str(model), folder / "stage1.onnx", side=32)

    return _written("exported", write) / "stage1.onnx"


@cache
def vlm() -> Path:
    """Return a folder with a Qwen3-VL."""
    return _written("vlm", write_vlm)


@cache
def hybrid_vlm() -> Path:
    """Return a folder with a Qwen3.5."""
    write_hybrid_vlm(_root() / "hybrid-vlm")
    return _root() / "hybrid-vlm"


@cache
def florence() -> Path:
    """Return a folder with a Florence-2 that sees 64 pixels."""
    return _written("florence", write_reader)


@cache
def video() -> Path:
    """Return a folder with a Molmo 2."""
    return _written("video", write_video)
