"""Miniatures with random weights, written once a test session: the layout of the real checkpoints, no training."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from roadwork_serve import scenes
from roadwork_serve.engines.features import Head, HeadSettings
from roadwork_serve.minis import architectures
from roadwork_serve.minis.tokenizer import MOLMO_SPECIAL, QWEN_SPECIAL, train_tokenizer


@cache
def _root() -> Path:
    return Path(mkdtemp(prefix="untrained-"))


@cache
def _truths() -> tuple[scenes.Truth, ...]:
    return tuple(scenes.photo(seed, scale=0.1).truth for seed in range(40))


@cache
def backbone(head: bool = True) -> Path:
    """A folder with a DINOv3 and, if wanted, a head."""
    torch.manual_seed(0)
    folder = _root() / f"backbone-{head}"
    architectures.backbone().half().save_pretrained(folder)
    if head:
        Head(HeadSettings(width=architectures.WIDTH, recipe="cls+mean+max")).save(folder)
    return folder


@cache
def vlm() -> Path:
    """A folder with a Qwen3-VL."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(QWEN_SPECIAL, _truths())
    architectures.save_checkpoint(architectures.vlm(tokenizer), architectures.vlm_processor(tokenizer), _root() / "vlm")
    return _root() / "vlm"


@cache
def video() -> Path:
    """A folder with a Molmo 2."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(MOLMO_SPECIAL, _truths())
    architectures.save_checkpoint(
        architectures.video(tokenizer), architectures.video_processor(tokenizer), _root() / "video"
    )
    return _root() / "video"
