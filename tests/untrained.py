"""Miniatures with random weights, written once a test session: the layout of the real checkpoints, no training."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

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
def florence() -> Path:
    """A folder with a Florence-2 that sees 64 pixels."""
    torch.manual_seed(0)
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>", *(f"<loc_{i}>" for i in range(1000))]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=letters,
        show_progress=False,
    )
    words.train_from_iterator(["What is the text in the image, with regions?"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    wide = 32
    config = Florence2Config(
        vision_config={"embed_dim": [16, 16, 32, 32], "num_heads": [1, 1, 2, 2], "num_groups": [1, 1, 2, 2],
                       "depths": [1, 1, 1, 1], "projection_dim": wide, "window_size": 2},
        text_config={"model_type": "bart", "d_model": wide, "encoder_layers": 1, "decoder_layers": 1,
                     "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
                     "decoder_ffn_dim": 64, "vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0,
                     "eos_token_id": 2, "decoder_start_token_id": 2},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    side, cells = 64, 2 * 2
    images = CLIPImageProcessor(
        size={"height": side, "width": side}, do_center_crop=False, crop_size={"height": side, "width": side}
    )
    images.image_seq_length = cells + 1
    Florence2ForConditionalGeneration(config).save_pretrained(_root() / "florence")
    parsing = {"ocr": {"pattern": None, "area_threshold": 0.0}}
    Florence2Processor(images, tokenizer, post_processor_config=parsing).save_pretrained(_root() / "florence")
    return _root() / "florence"


@cache
def video() -> Path:
    """A folder with a Molmo 2."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(MOLMO_SPECIAL, _truths())
    architectures.save_checkpoint(
        architectures.video(tokenizer), architectures.video_processor(tokenizer), _root() / "video"
    )
    return _root() / "video"
