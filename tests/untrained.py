"""Checkpoints with random weights in the layout of the real ones, written once per test session."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from roadwork_serve.testbed.minis.untrained import write_backbone, write_reader, write_video, write_vlm


@cache
def _root() -> Path:
    return Path(mkdtemp(prefix="untrained-"))


@cache
def backbone(head: bool = True) -> Path:
    """Return a folder with a DINOv3 and, if wanted, a head."""
    write_backbone(_root() / f"backbone-{head}", head)
    return _root() / f"backbone-{head}"


@cache
def vlm() -> Path:
    """Return a folder with a Qwen3-VL."""
    write_vlm(_root() / "vlm")
    return _root() / "vlm"


@cache
def florence() -> Path:
    """Return a folder with a Florence-2 that sees 64 pixels."""
    write_reader(_root() / "florence")
    return _root() / "florence"


@cache
def video() -> Path:
    """Return a folder with a Molmo 2."""
    write_video(_root() / "video")
    return _root() / "video"
