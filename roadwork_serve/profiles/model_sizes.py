"""Sizes of published models, so that their memory can be computed without a network.

They are from each model's config.json on the hub (facebook/dinov3-*, facebook/dinov2-*,
florence-community/Florence-2-*, Qwen/Qwen3-VL-*, allenai/Molmo2-*), of Qwen/Qwen3.5-* from its model card. Those of the
DINO family agree with timm's architectures. Models are instantiated on the meta device, with shapes and no weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.timm_mirrors import TIMM_MIRRORS

if TYPE_CHECKING:  # benchmarks count FLOPs with this where there is no pydantic
    from roadwork_serve.profiles.engine_spec import WeightFormat

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
# The defaults of transformers are those of 9B, but for the width between vision tower and decoder.
_QWEN3_5: dict[str, dict[str, Any]] = {
    "4B": {"text_config": {"hidden_size": 2560, "intermediate_size": 9216}, "tie_word_embeddings": True,
           "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560}},
    "9B": {"vision_config": {"out_hidden_size": 4096}},
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
    **{f"Qwen/Qwen3.5-{size}": ("Qwen3_5", c) for size, c in _QWEN3_5.items()},
    **{f"allenai/Molmo2-{size}": ("Molmo2", c) for size, c in _MOLMO2.items()},
}  # fmt: skip
_CLASSES = {
    "DINOv3ViT": ("DINOv3ViTConfig", "DINOv3ViTModel"),
    "DINOv3ConvNext": ("DINOv3ConvNextConfig", "DINOv3ConvNextModel"),
    "Dinov2": ("Dinov2Config", "Dinov2Model"),
    "Dinov2WithRegisters": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
    "Florence2": ("Florence2Config", "Florence2ForConditionalGeneration"),
    "Qwen3VL": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
    "Qwen3_5": ("Qwen3_5Config", "Qwen3_5ForConditionalGeneration"),
    "Molmo2": ("Molmo2Config", "Molmo2ForConditionalGeneration"),
}


def known_models() -> list[str]:
    """Return the hub ids whose sizes are known. A name that starts with one of theirs counts as a variant of it."""
    return sorted(_BY_ID)


@dataclass(frozen=True, slots=True)
class StoredQuantization:
    """The quantization of a checkpoint's weights."""

    #: Bits per weight.
    bits: int
    #: Method, as the checkpoint's config.json names it, with the format or the granularity.
    method: str
    #: True for integers, False for floating-point numbers.
    integer: bool
    #: True for FP8 with a scale for each block of 128 x 128 weights.
    blocks: bool = False

    @property
    def weight_format(self) -> "WeightFormat | None":
        """The format in terms of a profile; None for one that profiles cannot name."""
        if self.bits == 4 and self.integer:
            return "int4"
        return "fp8" if self.bits == 8 and not self.integer else None


_OFFICIAL_FP8 = StoredQuantization(8, "fp8 in blocks", integer=False, blocks=True)


def parse_quantization(config: Mapping[str, Any]) -> StoredQuantization | None:
    """Return the quantization in the contents of a config.json; None for weights that are not quantized."""
    settings = config.get("quantization_config") or config.get("compression_config")
    if not settings:
        return None
    method = str(settings.get("quant_method"))
    if method == "fp8":
        blocks = settings.get("weight_block_size") is not None
        return StoredQuantization(8, "fp8 in blocks" if blocks else "fp8 per tensor", integer=False, blocks=blocks)
    if method in ("awq", "gptq", "auto-round"):
        return StoredQuantization(int(settings.get("bits") or settings.get("w_bit") or 4), method, integer=True)
    if method == "compressed-tensors":
        groups = settings.get("config_groups") or {}
        weights = next((group["weights"] for group in groups.values() if group.get("weights")), {})
        strategy = weights.get("strategy")
        return StoredQuantization(
            int(weights.get("num_bits") or 0),
            f"{method} {settings.get('format')}",
            integer=weights.get("type", "int") == "int",
            blocks=strategy == "block",
        )
    return StoredQuantization(int(settings.get("bits") or 0), method, integer=True)


def stored_quantization(model: str) -> StoredQuantization | None:
    """Return the quantization of a checkpoint; None if its weights are not quantized, or nothing is known of it here.

    Read from config.json in the folder, or in the hub's cache. The publishers' own ids are known without it.
    """
    config = _config_file(model)
    if config is not None:
        return parse_quantization(json.loads(config.read_text(encoding="utf-8")))
    return _OFFICIAL_FP8 if model in _BY_ID and model.endswith("-FP8") else None


def known_unquantized(model: str) -> bool:
    """Return True if the weights of a checkpoint are known not to be quantized."""
    known = _config_file(model) is not None or model in _BY_ID
    return known and stored_quantization(model) is None


def _config_file(model: str) -> Path | None:
    """Return config.json of a folder, or of a hub id that has been downloaded."""
    if (file := _folder(model) / "config.json").is_file():
        return file
    if model.startswith(("bundled:", "/", ".", "~")) or model.count("/") != 1:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    cached = try_to_load_from_cache(model, "config.json")
    return Path(cached) if isinstance(cached, str) else None


def on_meta_device(model: str) -> Any:
    """Return the model of a hub id, folder or bundled:NAME as a PyTorch module without weights.

    Raises:
        ConfigError: The id is unknown, and there is no folder of that name with a config.json; or PyTorch is missing.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"the memory of {model} cannot be planned without {error.name}: run `make serve` in a checkout, or install "
            "roadwork-serve[models]"
        ) from None

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
