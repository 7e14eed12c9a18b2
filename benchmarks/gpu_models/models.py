"""Models of the published sizes with random weights, created on the GPU: nothing is downloaded or copied."""

from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.gpu_models.machine import Machine
from benchmarks.gpu_models.plan import BACKBONE, FLORENCE, MOLMO, QWEN
from roadwork_serve.profiles.model_sizes import on_meta_device

_TINY_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}  # fmt: skip
_TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    BACKBONE: ("DINOv3ViTConfig", "DINOv3ViTModel", {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}),
    FLORENCE: ("Florence2Config", "Florence2ForConditionalGeneration", {
        "text_config": {"model_type": "bart", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1,
                        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 128,
                        "decoder_ffn_dim": 128, "vocab_size": 512},
        "vision_config": {"depths": [1, 1, 1, 1], "embed_dim": [16, 32, 32, 64], "num_heads": [1, 2, 2, 4],
                          "num_groups": [1, 2, 2, 4], "projection_dim": 64}}),
    QWEN: ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration", {
        "text_config": _TINY_TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0,
                                                         "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
        "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
                          "out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        "image_token_id": 511, "video_token_id": 510, "vision_start_token_id": 509, "vision_end_token_id": 508}),
    MOLMO: ("Molmo2Config", "Molmo2ForConditionalGeneration", {
        "text_config": _TINY_TEXT | {"additional_vocab_size": 8},
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                          "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "image_size": [84, 84]},
        "adapter_config": {"vision_feature_layer": [-1, -2], "hidden_size": 32, "num_attention_heads": 2,
                           "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "text_hidden_size": 64},
        "image_patch_id": 511}),
}  # fmt: skip


def build(model: str, machine: Machine) -> Any:
    """Return the model of a hub id; on the tiny machine, a toy model of the same class."""
    if machine.tiny:
        config_class, name, sizes = _TINY[model]
        config = _named(config_class)(**sizes)
        kind = _named(name)
    else:
        meta = on_meta_device(model)
        config, kind = meta.config, type(meta)
    # Initialization on the GPU takes seconds. It also sets the buffers that are not weights.
    with machine.device:
        made = kind._from_config(config, dtype=machine.dtype)
    return made.eval().requires_grad_(False)


def title(model: str, machine: Machine) -> str:
    """Return the name of the model in the results."""
    return f"tiny {model.split('/')[1]}" if machine.tiny else model


def noise(machine: Machine, *shape: int) -> Tensor:
    """Return normal random numbers; zeros would be multiplied faster than real data."""
    return torch.randn(*shape, device=machine.device, dtype=machine.dtype)


def text_tokens(machine: Machine, batch: int, tokens: int) -> Tensor:
    """Return random token ids of text, [batch, tokens], which avoid the special tokens at both ends of a vocabulary."""
    return torch.randint(16, 256, (batch, tokens), device=machine.device)


def _named(name: str) -> Any:
    found = getattr(transformers, name, None)
    if found is None:
        raise RuntimeError(f"transformers {transformers.__version__} has no {name}: install 5.20.2 or newer")
    return found
