"""The miniatures: the production models' own classes and processors, with small sizes and random weights."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Florence2Processor,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from roadwork_serve.engines.onnx_folder import PIXEL_MEAN, PIXEL_STD

WIDTH = 192  # of every vision tower, so that one can start from another
HEADS = 3
BACKBONE_LAYERS = 6
VLM_LAYERS = 5
VIDEO_LAYERS = 4
TEXT_WIDTH = 128
MAX_PIXELS = 448 * 336
CLIP_SIDE = 160
TO_NUMBERS: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
}  # off by default in the Molmo 2 classes
ROPE_THETA = 100.0  # as DINOv3 has it, so that a Qwen3-VL tower can start from its weights

QWEN_CHAT = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- else %}{{ part.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking %}{{- '<think>\n' }}{%- endif %}{%- endif %}"
)
# Qwen3.5's template closes an empty thought where none is wanted.
QWEN35_CHAT = (
    QWEN_CHAT.removesuffix("{%- if enable_thinking %}{{- '<think>\n' }}{%- endif %}{%- endif %}")
    + "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- else %}{{- '<think>\n' }}{%- endif %}{%- endif %}"
)
MOLMO_CHAT = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<|image|>{%- elif part.type == 'video' %}<|video|>"
    "{%- else %}{{ part.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def backbone(layers: int = BACKBONE_LAYERS) -> DINOv3ViTModel:
    """Return a DINOv3 ViT/16 at 224 px, 2.8 M parameters."""
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=HEADS,
            image_size=224,
            patch_size=16,
            num_register_tokens=4,
            layerscale_value=0.5,
        )
    )


def vlm(tokenizer: Any) -> Qwen3VLForConditionalGeneration:
    """Return a Qwen3-VL with a vision tower of 5 layers and a text model of 3 layers."""
    token = tokenizer.convert_tokens_to_ids
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=_text(tokenizer) | {"rope_parameters": _rope(mrope_section=[6, 5, 5], mrope_interleaved=True)},
            vision_config={
                "depth": VLM_LAYERS,
                "hidden_size": WIDTH,
                "intermediate_size": 4 * WIDTH,
                "num_heads": HEADS,
                "patch_size": 16,
                "temporal_patch_size": 2,
                "spatial_merge_size": 2,
                "out_hidden_size": TEXT_WIDTH,
                "num_position_embeddings": 14 * 14,
                "deepstack_visual_indexes": [1, 3],
                "rope_parameters": {"rope_type": "axial", "rope_theta": ROPE_THETA},
            },
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
            tie_word_embeddings=True,
        )
    )


def hybrid_vlm(tokenizer: Any) -> Qwen3_5ForConditionalGeneration:
    """Return a Qwen3.5 with 2 vision layers, and 4 text layers of which the last has full attention."""
    token = tokenizer.convert_tokens_to_ids
    rope = _rope(mrope_section=[6, 5, 5], mrope_interleaved=True, partial_rotary_factor=0.5)
    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(
            text_config=_text(tokenizer)
            | {
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 64,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 64,
                "linear_value_head_dim": 64,
                "rope_parameters": rope,
            },
            vision_config={
                "depth": 2,
                "hidden_size": WIDTH,
                "intermediate_size": 4 * WIDTH,
                "num_heads": HEADS,
                "patch_size": 16,
                "temporal_patch_size": 2,
                "spatial_merge_size": 2,
                "out_hidden_size": TEXT_WIDTH,
                "num_position_embeddings": 14 * 14,
            },
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
            tie_word_embeddings=True,
        )
    )


def vlm_processor(tokenizer: Any, chat: str = QWEN_CHAT) -> Qwen3VLProcessor:
    """Return the processor of Qwen3-VL and Qwen3.5, for images of at most 448 x 336 pixels or the same area."""
    sizes = {"size": {"shortest_edge": 64 * 64, "longest_edge": MAX_PIXELS}, "patch_size": 16, "temporal_patch_size": 2,
             "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**sizes),
        chat_template=chat,
    )


def video(tokenizer: Any) -> Molmo2ForConditionalGeneration:
    """Return a Molmo 2 for frames of 160 px, 25 tokens a frame."""
    token = tokenizer.convert_tokens_to_ids
    side = CLIP_SIDE // 16
    return Molmo2ForConditionalGeneration(
        Molmo2Config(
            vision_config={
                "hidden_size": WIDTH,
                "intermediate_size": 4 * WIDTH,
                "num_hidden_layers": VIDEO_LAYERS,
                "num_attention_heads": HEADS,
                "num_key_value_heads": HEADS,
                "head_dim": WIDTH // HEADS,
                "image_size": [CLIP_SIDE, CLIP_SIDE],
                "patch_size": 16,
                "num_position_embeddings": side * side,
            },
            adapter_config={
                "vision_feature_layer": [-1, -3],
                "hidden_size": WIDTH,
                "num_attention_heads": HEADS,
                "num_key_value_heads": HEADS,
                "head_dim": WIDTH // HEADS,
                "intermediate_size": 2 * WIDTH,
                "text_hidden_size": TEXT_WIDTH,
            },
            text_config=_text(tokenizer) | {"additional_vocab_size": 8, "rope_parameters": _rope()},
            image_start_token_id=token("<im_start>"),
            low_res_image_start_token_id=token("<low_res_im_start>"),
            image_end_token_id=token("<im_end>"),
            image_patch_id=token("<im_patch>"),
            frame_start_token_id=token("<frame_start>"),
            frame_end_token_id=token("<frame_end>"),
        )
    )


def video_processor(tokenizer: Any) -> Molmo2Processor:
    """Return the processor of the model family: frames resized to 160 px, 2 x 2 patches pooled to a token."""
    size = {"height": CLIP_SIDE, "width": CLIP_SIDE}
    return Molmo2Processor(
        image_processor=Molmo2ImageProcessor(
            size=size, patch_size=16, overlap_margins=[2, 2], max_crops=2, **TO_NUMBERS
        ),
        video_processor=Molmo2VideoProcessor(
            size=size,
            patch_size=16,
            pooling_size=[2, 2],
            num_frames=8,
            do_resize=True,
            do_rescale=True,
            do_normalize=True,
        ),
        tokenizer=tokenizer,
        chat_template=MOLMO_CHAT,
    )


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 3 * TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _rope(**more: object) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10_000.0, **more}


def start_qwen_tower(tower: Any, teacher: Any) -> None:
    """Start a Qwen3-VL vision tower from the first layers of the backbone.

    Pixels are normalised differently (mean 0.5 instead of ImageNet statistics) and a patch has two frames: both are
    folded into the patch embedding. Layer scales are folded into the projections before them.
    """
    with torch.no_grad():
        old = teacher.embeddings.patch_embeddings
        weight, bias = _renormalised(old.weight, old.bias)
        tower.patch_embed.proj.weight.copy_((weight / 2).unsqueeze(2).expand_as(tower.patch_embed.proj.weight))
        tower.patch_embed.proj.bias.copy_(bias)
        tower.pos_embed.weight.zero_()
        for block, layer in zip(tower.blocks, teacher.model.layer, strict=False):
            attention, one, two = layer.attention, layer.layer_scale1.lambda1, layer.layer_scale2.lambda1
            block.norm1.load_state_dict(layer.norm1.state_dict())
            block.norm2.load_state_dict(layer.norm2.state_dict())
            parts = (attention.q_proj, attention.k_proj, attention.v_proj)
            block.attn.qkv.weight.copy_(torch.cat([p.weight for p in parts]))
            block.attn.qkv.bias.copy_(torch.cat([torch.zeros(WIDTH) if p.bias is None else p.bias for p in parts]))
            block.attn.proj.weight.copy_(attention.o_proj.weight * one[:, None])
            block.attn.proj.bias.copy_(attention.o_proj.bias * one)
            block.mlp.linear_fc1.load_state_dict(layer.mlp.up_proj.state_dict())
            block.mlp.linear_fc2.weight.copy_(layer.mlp.down_proj.weight * two[:, None])
            block.mlp.linear_fc2.bias.copy_(layer.mlp.down_proj.bias * two)


def start_molmo_tower(tower: Any, teacher: Any) -> None:
    """Start a Molmo 2 vision tower from the first layers of the backbone; its positions are learned."""
    with torch.no_grad():
        old = teacher.embeddings.patch_embeddings
        weight, bias = _renormalised(old.weight, old.bias)
        # A patch is laid out [row, column, channel] here, [channel, row, column] in a convolution.
        tower.patch_embedding.weight.copy_(weight.permute(0, 2, 3, 1).flatten(1))
        tower.patch_embedding.bias.copy_(bias)
        for block, layer in zip(tower.layers, teacher.model.layer, strict=False):
            attention, one, two = layer.attention, layer.layer_scale1.lambda1, layer.layer_scale2.lambda1
            block.layer_norm1.load_state_dict(layer.norm1.state_dict())
            block.layer_norm2.load_state_dict(layer.norm2.state_dict())
            for mine, theirs in ((block.self_attn.q_proj, attention.q_proj), (block.self_attn.k_proj, attention.k_proj),
                                 (block.self_attn.v_proj, attention.v_proj)):  # fmt: skip
                mine.weight.copy_(theirs.weight)
                mine.bias.copy_(torch.zeros(WIDTH) if theirs.bias is None else theirs.bias)
            block.self_attn.o_proj.weight.copy_(attention.o_proj.weight * one[:, None])
            block.self_attn.o_proj.bias.copy_(attention.o_proj.bias * one)
            block.mlp.fc1.load_state_dict(layer.mlp.up_proj.state_dict())
            block.mlp.fc2.weight.copy_(layer.mlp.down_proj.weight * two[:, None])
            block.mlp.fc2.bias.copy_(layer.mlp.down_proj.bias * two)


def _renormalised(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert a patch embedding for ImageNet-normalised pixels to pixels normalised with mean and deviation 0.5."""
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    shift = ((0.5 - mean) / std).view(1, 3, 1, 1)
    return weight * (0.5 / std).view(1, 3, 1, 1), bias + (weight * shift).sum((1, 2, 3))


def save_checkpoint(model: Any, processor: Any, out: Path) -> None:
    """Write the weights in fp16 and the processor's files to one folder."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)


def florence_processor(side: int, cells: int) -> Florence2Processor:
    """Return a processor of Florence-2 with a small tokenizer.

    Args:
        side: Side of the images in pixels.
        cells: Number of cells that the vision tower divides them into.
    """
    images: Any = CLIPImageProcessor(
        size={"height": side, "width": side}, crop_size={"height": side, "width": side}, do_center_crop=False
    )
    images.image_seq_length = cells + 1
    parsing = {"ocr": {"pattern": None, "area_threshold": 0.0}}
    return Florence2Processor(images, _florence_tokenizer(), post_processor_config=parsing)


def _florence_tokenizer() -> Any:
    """Return a tokenizer with the location tokens of Florence-2."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>", *(f"<loc_{i}>" for i in range(1000))]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(["What is the text in the image, with regions?"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
