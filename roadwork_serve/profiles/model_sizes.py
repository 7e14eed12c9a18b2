"""Sizes of published models, so that their memory can be computed without a network.

They are from each model's config.json on the hub: facebook/dinov3-*, facebook/dinov2-*,
florence-community/Florence-2-*, Qwen/Qwen3-VL-*, allenai/Molmo2-*. Those of the DINO family agree with timm's
architectures. Models are instantiated on the meta device, with shapes and without weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadwork_serve.errors import ConfigError

if TYPE_CHECKING:  # benchmarks count FLOPs with this where there is no pydantic
    from roadwork_serve.profiles.profile import Quantization

_DINOV3: dict[str, dict[str, Any]] = {
    "s16": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
    "s16plus": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6,
                "use_gated_mlp": True, "hidden_act": "silu"},
    "b16": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "l16": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "h16plus": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
                "use_gated_mlp": True, "hidden_act": "silu"},
    "7b16": {"hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 40, "num_attention_heads": 32,
             "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False},
}  # fmt: skip
_DINOV3_CONVNEXT: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]},
    "small": {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 27, 3]},
    "base": {"hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]},
    "large": {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},
}
_DINOV2: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
_TIMM_SIZES = {
    "s16": "small",
    "s16plus": "small_plus",
    "b16": "base",
    "l16": "large",
    "h16plus": "huge_plus",
    "7b16": "7b",
}
#: Hub ids of timm with the weights of the gated DINOv3 models, and no licence to accept before the download.
TIMM_MIRRORS: Mapping[str, str] = {
    **{f"facebook/dinov3-vit{size}-pretrain-lvd1689m": f"timm/vit_{name}_patch16_dinov3.lvd1689m"
       for size, name in _TIMM_SIZES.items()},
    **{f"facebook/dinov3-vit{size}-pretrain-sat493m": f"timm/vit_{_TIMM_SIZES[size]}_patch16_dinov3.sat493m"
       for size in ("l16", "7b16")},
    **{f"facebook/dinov3-convnext-{size}-pretrain-lvd1689m": f"timm/convnext_{size}.dinov3_lvd1689m"
       for size in _DINOV3_CONVNEXT},
}  # fmt: skip


def _qwen3(hidden: int, inner: int, layers: int = 36, heads: int = 32) -> dict[str, Any]:
    return {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936}  # fmt: skip


_QWEN3_VL: dict[str, dict[str, Any]] = {
    "2B": {"text_config": _qwen3(2048, 6144, layers=28, heads=16), "tie_word_embeddings": True,
           "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2048,
                             "deepstack_visual_indexes": [5, 11, 17]}},
    "4B": {"text_config": _qwen3(2560, 9728), "tie_word_embeddings": True,
           "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560,
                             "deepstack_visual_indexes": [5, 11, 17]}},
    "8B": {"text_config": _qwen3(4096, 12_288), "vision_config": {"out_hidden_size": 4096}},
}  # fmt: skip
_MOLMO2: dict[str, dict[str, Any]] = {
    "4B": {"text_config": _qwen3(2560, 9728), "adapter_config": {"intermediate_size": 9728, "text_hidden_size": 2560}},
    "8B": {"text_config": _qwen3(4096, 12_288),
           "adapter_config": {"intermediate_size": 12_288, "text_hidden_size": 4096}},
}  # fmt: skip
_FLORENCE2: dict[str, dict[str, Any]] = {
    "base": {"text_config": {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
                             "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
                             "vocab_size": 51_289},
             "vision_config": {"embed_dim": [128, 256, 512, 1024], "num_heads": [4, 8, 16, 32],
                               "num_groups": [4, 8, 16, 32], "projection_dim": 768}},
    "large": {"text_config": {"d_model": 1024, "vocab_size": 51_289},
              "vision_config": {"embed_dim": [256, 512, 1024, 2048], "num_heads": [8, 16, 32, 64],
                                "num_groups": [8, 16, 32, 64], "projection_dim": 1024}},
}  # fmt: skip

_DINO: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{f"facebook/dinov3-vit{size}-pretrain-{data}": ("DINOv3ViT", {"num_register_tokens": 4, **c})
       for size, c in _DINOV3.items() for data in ("lvd1689m", "sat493m")
       if data == "lvd1689m" or size in ("l16", "7b16")},
    **{f"facebook/dinov3-convnext-{size}-pretrain-lvd1689m": ("DINOv3ConvNext", c)
       for size, c in _DINOV3_CONVNEXT.items()},
    **{f"facebook/dinov2-{size}": ("Dinov2", {"image_size": 518, **c}) for size, c in _DINOV2.items()},
    **{f"facebook/dinov2-with-registers-{size}": ("Dinov2WithRegisters", {"image_size": 518, "patch_size": 14, **c})
       for size, c in _DINOV2.items()},
}  # fmt: skip
_BY_ID: dict[str, tuple[str, Mapping[str, Any]]] = {
    **_DINO,
    **{mirror: _DINO[original] for original, mirror in TIMM_MIRRORS.items()},
    **{f"florence-community/Florence-2-{size}{ft}": ("Florence2", c)
       for size, c in _FLORENCE2.items() for ft in ("", "-ft")},
    **{f"Qwen/Qwen3-VL-{size}-{kind}{fp8}": ("Qwen3VL", c)
       for size, c in _QWEN3_VL.items() for kind in ("Instruct", "Thinking") for fp8 in ("", "-FP8")},
    **{f"allenai/Molmo2-{size}": ("Molmo2", c) for size, c in _MOLMO2.items()},
}  # fmt: skip
_CLASSES = {
    "DINOv3ViT": ("DINOv3ViTConfig", "DINOv3ViTModel"),
    "DINOv3ConvNext": ("DINOv3ConvNextConfig", "DINOv3ConvNextModel"),
    "Dinov2": ("Dinov2Config", "Dinov2Model"),
    "Dinov2WithRegisters": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
    "Florence2": ("Florence2Config", "Florence2ForConditionalGeneration"),
    "Qwen3VL": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
    "Molmo2": ("Molmo2Config", "Molmo2ForConditionalGeneration"),
}


def known_models() -> list[str]:
    """Return the hub ids whose sizes are known. A name that starts with one of theirs counts as a variant of it."""
    return sorted(_BY_ID)


def stored_as(model: str) -> "Quantization | None":
    """Return the quantization of a checkpoint by its config.json, or by the name of a hub id; None if not quantized."""
    config = _folder(model) / "config.json"
    if not config.is_file():
        name = model.rpartition("/")[2].lower()
        return "fp8" if "-fp8" in name else "awq" if "-awq" in name else None
    settings = json.loads(config.read_text(encoding="utf-8")).get("quantization_config") or {}
    method = settings.get("quant_method")
    return "fp8" if method == "fp8" else "awq" if method == "awq" else None


def on_meta_device(model: str) -> Any:
    """Return the model of a hub id, folder or bundled:NAME as a PyTorch module without weights.

    Raises:
        ConfigError: The id is unknown, and there is no folder of that name with a config.json.
    """
    import torch
    import transformers

    folder = _folder(model)
    if (folder / "config.json").is_file():
        config = transformers.AutoConfig.from_pretrained(folder)
        name = (config.architectures or [""])[0]
        if config.model_type == "timm_wrapper":  # timm writes no name of a class, and the wrapper sets num_classes
            name = "TimmWrapperModel"
            config.model_args = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}
    elif known := _known(model):
        family, sizes = _BY_ID[known]
        config_class, name = _CLASSES[family]
        config = getattr(transformers, config_class)(**sizes)
    else:
        raise ConfigError(
            f"the sizes of {model} are unknown: give a folder with its config.json, or one of "
            + ", ".join(known_models())
        )
    if not hasattr(transformers, name):
        raise ConfigError(f"transformers has no class {name!r}, which {model} names; use a checkpoint of transformers")
    with torch.device("meta"):
        return getattr(transformers, name)(config)


def _folder(model: str) -> Path:
    """Return the folder of a model, if it is a path or bundled:NAME."""
    if model.startswith("bundled:"):
        return Path(__file__).parents[1] / "weights" / model.removeprefix("bundled:")
    return Path(model)


def _known(model: str) -> str | None:
    """Return the known id of which this is a variant: somebody/Qwen3-VL-8B-Instruct-AWQ has the same layers."""
    if model in _BY_ID:
        return model
    name = model.rpartition("/")[2].lower()
    near = [known for known in _BY_ID if name.startswith(known.rpartition("/")[2].lower())]
    return max(near, key=len, default=None)
