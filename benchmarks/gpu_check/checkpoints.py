"""Folders of the published models at full size, without weights: configuration, tokenizer and processor.

The weights are random and made where the model is loaded, so nothing is downloaded and nothing large is written. The
tokenizers are those of the miniatures; a vocabulary of the published size is kept in the configuration.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from roadwork_serve.engines import backbones, features, florence, transformers
from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.profiles.model_sizes import on_meta_device
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis import architectures
from roadwork_serve.testbed.minis.tokenizer import MOLMO_SPECIAL, QWEN_SPECIAL, train_tokenizer

TOKENIZER_SCENES = 40


def write_checkpoint(model: str, folder: Path) -> None:
    """Write the folder of a published model, known to `profiles.model_sizes`.

    Raises:
        ConfigError: The sizes of the model are unknown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = on_meta_device(model)
    config = built.config
    config.architectures = [type(built).__name__]
    match config.model_type:
        case "qwen3_vl" | "qwen3_5":
            _write_qwen(config, folder)
        case "molmo2":
            _write_molmo(config, folder)
        case "florence2":
            _write_florence(config, folder)
        case _:
            settings = features.HeadSettings(width=config.hidden_size)
            features.Head(settings).save(folder)
    config.save_pretrained(folder)


@contextmanager
def random_weights() -> Iterator[None]:
    """Let the engines of transformers load random weights for the configuration in a folder."""

    def load(kind: type[Any], model: str, options: LoadOptions = DEFAULTS, **more: Any) -> Any:
        config = AutoConfig.from_pretrained(model)
        named = getattr(__import__("transformers"), config.architectures[0])
        with torch.device(options.device):
            made = named._from_config(config, dtype=getattr(torch, options.dtype), **more)
        return made.eval().requires_grad_(False)

    modules: tuple[Any, ...] = (backbones, florence, transformers)
    before = [module.load_pretrained for module in modules]
    for module in modules:
        module.load_pretrained = load
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.load_pretrained = function


def _tokenizer(special: tuple[str, ...]) -> Any:
    return train_tokenizer(special, [scenes.photo(seed, scale=0.1).truth for seed in range(TOKENIZER_SCENES)])


def _write_qwen(config: Any, folder: Path) -> None:
    tokenizer = _tokenizer(QWEN_SPECIAL)
    token = tokenizer.convert_tokens_to_ids
    config.image_token_id, config.video_token_id = token("<|image_pad|>"), token("<|video_pad|>")
    config.vision_start_token_id, config.vision_end_token_id = token("<|vision_start|>"), token("<|vision_end|>")
    chat = architectures.QWEN35_CHAT if config.model_type == "qwen3_5" else architectures.QWEN_CHAT
    sizes: dict[str, Any] = {
        "size": {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}, "patch_size": 16, "temporal_patch_size": 2,
        "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**sizes),
        chat_template=chat,
    ).save_pretrained(folder)


def _write_molmo(config: Any, folder: Path) -> None:
    tokenizer = _tokenizer(MOLMO_SPECIAL)
    token = tokenizer.convert_tokens_to_ids
    config.image_start_token_id, config.image_end_token_id = token("<im_start>"), token("<im_end>")
    config.low_res_image_start_token_id, config.image_patch_id = token("<low_res_im_start>"), token("<im_patch>")
    config.frame_start_token_id, config.frame_end_token_id = token("<frame_start>"), token("<frame_end>")
    Molmo2Processor(
        image_processor=Molmo2ImageProcessor(**architectures.TO_NUMBERS),
        video_processor=Molmo2VideoProcessor(num_frames=8, **architectures.TO_NUMBERS),
        tokenizer=tokenizer,
        chat_template=architectures.MOLMO_CHAT,
    ).save_pretrained(folder)


def _write_florence(config: Any, folder: Path) -> None:
    processor = architectures.florence_processor(side=768, cells=24 * 24)
    config.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    processor.save_pretrained(folder)
