"""Backbones of the DINO family: pixels to tokens, with the preprocessing that each checkpoint was trained with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils.import_utils import is_flash_attn_2_available

from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.engines.loading import load_pretrained, read_config, read_processor_config
from roadwork_serve.engines.onnx_folder import PIXEL_MEAN, PIXEL_STD
from roadwork_serve.errors import ModelError

if TYPE_CHECKING:
    from transformers import TimmWrapperConfig

Rgb = tuple[float, float, float]

# Classes of transformers by the model_type of config.json.
_CLASSES = {
    "dinov3_vit": "DINOv3ViTModel",
    "dinov3_convnext": "DINOv3ConvNextModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "timm_wrapper": "TimmWrapperModel",
}
# Modules of timm.models, by the output of their models: tokens with a class token first, or a map [n, c, h, w].
_TIMM_VITS = ("eva", "vision_transformer")
_TIMM_CONVNETS = ("convnext", "efficientnet", "resnet")
# Blocks of the architectures that can be fine-tuned. Those with batch normalization, whose statistics would follow the
# small batches of fine-tuning, are not among them.
_BLOCKS = (
    "DINOv3ViTLayer", "DINOv3ConvNextLayer", "Dinov2Layer", "Dinov2WithRegistersLayer", "EvaBlock", "Block",
    "ConvNeXtBlock",
)  # fmt: skip
_SUPPORTED = (
    "DINOv3 ViT and ConvNeXt, DINOv2 with and without registers, and timm's ViTs with a class token, ConvNeXt, "
    "EfficientNet and ResNet"
)


class Backbone(nn.Module):
    """A backbone: normalized pixels [n, 3, h, w] -> tokens [n, 1 + patches, width], after the model's final norm.

    The global token comes first: the class token, or the mean of a convolutional model's map. The patches follow in
    row-major order. Register tokens are left out.
    """

    def __init__(self, model: Any, processor: Mapping[str, Any] | None = None) -> None:
        """Wrap a model.

        Args:
            model: Instance of one of the classes of transformers that are supported.
            processor: Contents of preprocessor_config.json, if the checkpoint has one.
        """
        super().__init__()
        self.model = model
        self.processor = dict(processor or {})
        config = model.config
        if config.model_type == "timm_wrapper":
            net = model.timm_model
            preprocessing = getattr(config, "pretrained_cfg", None) or {}
            convolutional = not hasattr(net, "patch_embed")
            self.width = int(net.num_features)
            self.patch = int(net.feature_info[-1]["reduction"] if convolutional else net.patch_embed.patch_size[0])
            self.image_size = int(preprocessing.get("input_size", (3, 224, 224))[-1])
            self._registers = 0 if convolutional else int(net.num_prefix_tokens) - 1
            mean, std = preprocessing.get("mean"), preprocessing.get("std")
        else:
            convolutional = config.model_type == "dinov3_convnext"
            self.width = int(config.hidden_sizes[-1] if convolutional else config.hidden_size)
            # The stem of a ConvNeXt has a stride of 4, every further stage one of 2.
            self.patch = 4 * 2 ** (len(config.hidden_sizes) - 1) if convolutional else int(config.patch_size)
            self.image_size = _processor_side(self.processor) or int(config.image_size)
            self._registers = 0 if convolutional else int(getattr(config, "num_register_tokens", 0))
            mean, std = self.processor.get("image_mean"), self.processor.get("image_std")
        self.mean: Rgb = _rgb(mean) if mean else PIXEL_MEAN
        self.std: Rgb = _rgb(std) if std else PIXEL_STD

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the tokens [n, 1 + patches, width] in the dtype of the model."""
        if self.config.model_type != "timm_wrapper":
            tokens = self.model(pixels).last_hidden_state
        else:
            tokens = self.model.timm_model.forward_features(pixels)
            if tokens.ndim == 4:
                return self._map_tokens(tokens)
        return torch.cat([tokens[:, :1], tokens[:, 1 + self._registers :]], dim=1) if self._registers else tokens

    def _map_tokens(self, cells: Tensor) -> Tensor:
        """Return the mean of a map [n, width, h, w] and its cells, after the norm that timm puts after the pooling."""
        norm = getattr(getattr(self.model.timm_model, "head", None), "norm", None) or nn.Identity()
        parts = norm(cells.mean((2, 3), keepdim=True)), norm(cells)
        return torch.cat([part.flatten(2) for part in parts], dim=2).transpose(1, 2)

    @property
    def config(self) -> Any:
        """Config of the model."""
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    def blocks(self) -> set[type[nn.Module]]:
        """Return the classes of the residual blocks, the units that FSDP shards.

        Raises:
            ModelError: Fine-tuning of this architecture is not supported.
        """
        found = {type(module) for module in self.model.modules() if type(module).__name__ in _BLOCKS}
        if not found:
            name = getattr(self.config, "architecture", self.config.model_type)
            raise ModelError(
                f"fine-tuning of {name} is not supported: train a head on its features, without --unfreeze, or "
                "fine-tune a ViT or ConvNeXt"
            )
        return found

    def fresh(self) -> "Backbone":
        """Return a backbone of the same architecture with random weights, on the CPU in fp32."""
        return Backbone(type(self.model)(self.config), self.processor)

    def save_pretrained(self, folder: Path) -> None:
        """Write a checkpoint that `load_backbone` reads, with its preprocessing."""
        self.model.save_pretrained(folder)
        if self.processor:
            text = json.dumps(self.processor, indent=2) + "\n"
            (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def load_backbone(model: str, options: LoadOptions = DEFAULTS) -> Backbone:
    """Load a backbone from a folder or hub id.

    Raises:
        ModelError: The architecture is not supported, or the checkpoint cannot be loaded.
    """
    config = read_config(model, options)
    found = config.get("model_type")
    if found == "onnx_backbone":
        from roadwork_serve.engines.onnx_tokens import OnnxTokens

        return OnnxTokens(model, config, options)
    if found not in _CLASSES:
        what = f"of the model type {found}" if found else "not a checkpoint: its config.json has no model_type"
        raise ModelError(f"{model} is {what}, and a backbone must be one of: {_SUPPORTED}")
    more: dict[str, Any] = {"config": _timm_config(model, config)} if found == "timm_wrapper" else {}
    kind = getattr(transformers, _CLASSES[found])
    if kind._supports_sdpa:
        more["attn_implementation"] = attention(kind, options)
    loaded = load_pretrained(kind, model, options, **more)
    return Backbone(loaded, None if found == "timm_wrapper" else read_processor_config(model, options))


def attention(kind: type[Any], options: LoadOptions) -> str:
    """Return the attention implementation: FlashAttention 2 if it is installed and supported, else PyTorch's own."""
    flash = options.device == "cuda" and options.dtype != "float32" and kind._supports_flash_attn
    return "flash_attention_2" if flash and is_flash_attn_2_available() else "sdpa"


def _timm_config(model: str, config: dict[str, Any]) -> "TimmWrapperConfig":
    """Return the config of a timm model that takes images of any side.

    Raises:
        ModelError: The architecture is not supported.
    """
    from timm.models import is_model_in_modules
    from transformers import TimmWrapperConfig  # it imports timm, which takes seconds

    name = str(config.get("architecture"))
    vit = is_model_in_modules(name, _TIMM_VITS)
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if key != "num_classes"}
    if not (vit or is_model_in_modules(name, _TIMM_CONVNETS)) or (vit and arguments.get("class_token") is False):
        raise ModelError(f"{model} is timm's {name}, and a backbone must be one of: {_SUPPORTED}")
    if vit:
        arguments["dynamic_img_size"] = True  # position embeddings are interpolated to the side of the thumbnails
    return TimmWrapperConfig.from_dict(config | {"model_args": arguments})


def _processor_side(processor: Mapping[str, Any]) -> int | None:
    """Return the side in pixels that an image processor produces; None if it does not say."""
    sizes = [processor.get("crop_size") if processor.get("do_center_crop") else None, processor.get("size")]
    return next((int(size["height"]) for size in sizes if isinstance(size, Mapping) and "height" in size), None)


def _rgb(values: Any) -> Rgb:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
