"""Checkpoints of all four architectures with random weights: small, and loaded by the same code as the real ones.

For testing engines and profiles without the production weights: their predictions are noise.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration

from roadwork_serve.engines.features import Head, HeadSettings
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis import architectures
from roadwork_serve.testbed.minis.tokenizer import MOLMO_SPECIAL, QWEN_SPECIAL, train_tokenizer

SEED = 0
RUNS = ("transformers", "vllm")
READER_SIDE, READER_CELLS, READER_WIDTH = 64, 2 * 2, 32


def write_backbone(folder: Path, head: bool = True) -> None:
    """Write a DINOv3 ViT/16 and, with head, a head."""
    torch.manual_seed(SEED)
    architectures.backbone().half().save_pretrained(folder)
    if head:
        Head(HeadSettings(width=architectures.WIDTH, recipe="cls+mean+max")).save(folder)


def write_vlm(folder: Path) -> None:
    """Write a Qwen3-VL with its own tokenizer."""
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer(QWEN_SPECIAL, _truths())
    architectures.save_checkpoint(architectures.vlm(tokenizer), architectures.vlm_processor(tokenizer), folder)


def write_hybrid_vlm(folder: Path) -> None:
    """Write a Qwen3.5 with its own tokenizer."""
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer(QWEN_SPECIAL, _truths())
    processor = architectures.vlm_processor(tokenizer, architectures.QWEN35_CHAT)
    architectures.save_checkpoint(architectures.hybrid_vlm(tokenizer), processor, folder)


def write_video(folder: Path) -> None:
    """Write a Molmo 2 with its own tokenizer."""
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer(MOLMO_SPECIAL, _truths())
    architectures.save_checkpoint(architectures.video(tokenizer), architectures.video_processor(tokenizer), folder)


def write_reader(folder: Path) -> None:
    """Write a Florence-2 for images of 64 pixels."""
    torch.manual_seed(SEED)
    processor = architectures.florence_processor(READER_SIDE, READER_CELLS)
    tokenizer = processor.tokenizer
    ends: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = Florence2Config(
        vision_config={"embed_dim": [16, 16, 32, 32], "num_heads": [1, 1, 2, 2], "num_groups": [1, 1, 2, 2],
                       "depths": [1, 1, 1, 1], "projection_dim": READER_WIDTH, "window_size": 2},
        text_config={"model_type": "bart", "d_model": READER_WIDTH, "encoder_layers": 1, "decoder_layers": 1,
                     "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
                     "decoder_ffn_dim": 64, "vocab_size": len(tokenizer), **ends},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **ends,
    )  # fmt: skip
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_all(out: Path) -> list[Path]:
    """Write all four checkpoints, a policy that runs every stage, and a profile for each language-model backend.

    Returns the files of the profiles.
    """
    from roadwork_serve.profiles.profile import Profile  # the checkpoints are also written where there is no pydantic

    write_backbone(out / "dinov3")
    write_reader(out / "florence-2")
    write_vlm(out / "qwen3-vl")
    write_video(out / "molmo-2")
    policy = out / "policy.yaml"
    _write(policy, _policy())
    written = []
    for runs in RUNS:
        written.append(out / f"{runs}.yaml")
        profile = _profile(out.resolve(), policy.resolve(), runs)
        Profile.model_validate(profile)
        _write(written[-1], profile)
    return written


def _write(file: Path, mapping: dict[str, Any]) -> None:
    import yaml

    file.write_text(yaml.safe_dump(mapping, sort_keys=False), encoding="utf-8")


def _policy() -> dict[str, Any]:
    """Return a policy without early exits."""
    photo = ["backbone", "signs", "vlm", "reasoner"]
    clip = ["backbone", "signs", "video"]
    steps = {
        kind: [{"stage": name, "exit": [0.5, 0.5] if name == names[-1] else [0.0, 1.0]} for name in names]
        for kind, names in (("photo", photo), ("clip", clip))
    }
    return {"version": "untrained", **steps}


def _profile(out: Path, policy: Path, runs: str) -> dict[str, Any]:
    """Return a profile for all five stages on two cores. Both photo stages of the language model share one engine."""
    small = {"backend": "transformers", "miniature": True, "num_cpus": 0.25}
    language = small | {"backend": runs, "language": {"context_tokens": 1024}}
    if runs == "vllm":
        language |= {"vllm": {"kv_cache_gib": 0.25, "enforce_eager": True}}
    return {
        "name": f"untrained-{runs}",
        "description": f"random weights of all four architectures, language models by {runs}",
        "policy": str(policy),
        "ingress": {"num_cpus": 0.25},
        "engines": {
            "dinov3": small | {"model": str(out / "dinov3")},
            "florence": small | {"model": str(out / "florence-2")},
            "qwen3-vl": language | {"model": str(out / "qwen3-vl")},
            "molmo2": language | {"model": str(out / "molmo-2")},
        },
        "stages": {
            "backbone": {"engine": "dinov3", "max_batch": 16},
            "signs": {"engine": "florence", "max_batch": 4},
            "vlm": {"engine": "qwen3-vl", "max_batch": 2, "slots": 4},
            "reasoner": {"engine": "qwen3-vl", "max_batch": 2, "slots": 4,
                         "options": {"thinking": True, "reasoning_tokens": 48}},
            "video": {"engine": "molmo2", "max_batch": 2, "slots": 2, "options": {"frames": 4}},
        },
    }  # fmt: skip


@cache
def _truths() -> tuple[scenes.Truth, ...]:
    """Return the scenes that the tokenizers are trained on."""
    return tuple(scenes.photo(seed, scale=0.1).truth for seed in range(40))
