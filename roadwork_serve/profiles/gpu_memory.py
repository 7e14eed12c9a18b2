"""Estimates of the GPU memory an engine needs, in GiB.

Weights are counted on the meta device, so that nothing is downloaded. Quantization applies to the linear layers of the
text decoder, as in the published checkpoints and as vLLM is told to convert on load; embeddings, the head and the
vision tower stay in 16 bit. Checked against the published sizes
of Qwen3-VL-8B: 16.3 GiB in bf16, 9.9 in fp8, about 6.8 in 4 bit. Activations, CUDA graphs and the overhead of a process
are estimates, not yet measured on hardware.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec, WeightFormat
from roadwork_serve.profiles.model_sizes import known_unquantized, on_meta_device, stored_quantization
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName, role_of
from roadwork_serve.profiles.stage_spec import StageSpec

GIB = 2**30
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "auto": 4.0}
# Bytes per weight. 4-bit weights have a scale of 16 bits and a zero point of 4 bits per 128 weights.
QUANTIZED: dict[WeightFormat, float] = {"fp8": 1.0, "int4": (4 + 20 / 128) / 8}
CONTEXT_GIB = 0.5  # CUDA context of a process: shown by nvidia-smi before anything is loaded
GRAPHS_GIB = 0.5  # CUDA graphs of vLLM
RUNTIME_GIB = 1.0  # workspace of ONNX Runtime and TensorRT
PP_OCR_GIB = 0.03  # the two files in RapidOCR's wheel
STEP_TOKENS = 2048  # vLLM's default of max_num_batched_tokens when used as a library
FRAMES_READ = 3  # frames of a clip that stage 2A reads
_MLP = 2 * 4 + 6  # `_widest` per number of the residual stream, where the MLP is four times as wide
_POOLED, _FRAME_MARKS = 3, 2  # Molmo 2 pools 3 x 3 patches of a frame to a token, and marks its start and its end
OCR_TOKENS = 384  # largest number of tokens that stage 2A generates for an image


@dataclass(frozen=True, slots=True)
class GpuMemoryNeed:
    """The GPU memory that one replica of an engine needs. Sizes are in GiB."""

    engine: str
    model: str
    #: Number of weights; 0 for an exported file.
    parameters: int
    weights: float
    kv_cache: float
    activations: float
    #: CUDA context.
    context: float = CONTEXT_GIB
    #: Memory the engine may allocate beyond that, up to its limit.
    reserved: float = 0.0
    #: Largest number of prompts in flight.
    prompts: int = 0
    #: Number of prompts with a full context that fit into the KV cache; None without a cache.
    cached_prompts: float | None = None

    @property
    def total(self) -> float:
        """All of it in GiB."""
        return self.weights + self.kv_cache + self.activations + self.context + self.reserved

    @property
    def asleep(self) -> "GpuMemoryNeed":
        """The need while the engine sleeps: vLLM keeps its context and its graphs."""
        graphs = min(self.activations, GRAPHS_GIB)
        return replace(self, model=f"{self.model}, asleep", weights=0, kv_cache=0, activations=graphs, reserved=0)


def gpu_memory_needs(profile: Profile, names: tuple[str, ...], gpu_gib: float) -> tuple[GpuMemoryNeed, ...]:
    """Return the needs of the engines of one process.

    Args:
        profile: The profile.
        names: One engine, or those of a time_slice_group, of which the largest is assumed to be awake. An engine on
            several GPUs needs its part of each.
        gpu_gib: Memory of the GPU.

    Raises:
        ConfigError: The message names the field to change.
    """
    users = profile.users()
    needs = [gpu_memory_need(name, profile.engines[name], users[name], gpu_gib) for name in names]
    awake = max(range(len(needs)), key=lambda i: needs[i].total - needs[i].asleep.total)
    return tuple(need if i == awake else need.asleep for i, need in enumerate(needs))


def gpu_memory_need(
    name: str, engine: EngineSpec, users: Mapping[StageName, StageSpec], gpu_gib: float
) -> GpuMemoryNeed:
    """Return the need of one replica of an engine on a GPU of this size, used by these stages.

    Raises:
        ConfigError: The message names the field to change.
    """
    prompts = sum(spec.max_batch * spec.slots for spec in users.values())
    role = role_of(next(iter(users)))
    if role == "own":
        return GpuMemoryNeed(name, engine.model, 0, engine.gpu_memory_gib or 0.0, 0, RUNTIME_GIB)
    if engine.backend in ("onnx", "tensorrt"):
        return _capped(GpuMemoryNeed(name, engine.model, 0, _file_gib(name, engine.model), 0, RUNTIME_GIB), engine)
    if engine.backend == "rapidocr":
        return GpuMemoryNeed(name, engine.model, 0, PP_OCR_GIB, 0, RUNTIME_GIB)
    sizes = _sizes(engine.model)
    weights = _weights_gib(name, engine, sizes)
    if role == "features":
        tokens = _thumbs(engine) * (((engine.features.side or 224) // sizes.patch) ** 2 + 5)
        return _capped(GpuMemoryNeed(name, engine.model, sizes.parameters, weights, 0, sizes.layer_gib(tokens)), engine)
    if role == "ocr":
        images = max(spec.max_batch * spec.options.get("frames_read", FRAMES_READ) for spec in users.values())
        activations = images * sizes.image_gib
        return _capped(GpuMemoryNeed(name, engine.model, sizes.parameters, weights, 0, activations), engine)
    if engine.backend == "vllm":
        return _vllm_need(
            GpuMemoryNeed(name, engine.model, sizes.parameters, weights, 0, 0, prompts=prompts), engine, gpu_gib
        )
    tokens = engine.language.context_tokens * max(spec.max_batch for spec in users.values())
    cache = prompts * (engine.language.context_tokens * sizes.cache_bytes + sizes.state_bytes) / GIB
    need = GpuMemoryNeed(name, engine.model, sizes.parameters, weights, cache, sizes.layer_gib(tokens), prompts=prompts)
    return _capped(replace(need, cached_prompts=float(prompts)), engine)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model."""

    #: Number of weights.
    parameters: int
    #: Number of weights that quantization applies to.
    decoder: int
    #: Bytes of the keys and values of a token in 16 bit.
    cache_bytes: int
    #: Numbers per token in the widest layer.
    width: int
    #: Memory for one image of an OCR model in GiB.
    image_gib: float
    #: Side of a patch or cell of a backbone in pixels.
    patch: int = 16
    #: Bytes that the vision tower of Molmo 2 holds at once for a frame, and tokens of a frame; 0 for other models.
    frame_bytes: int = 0
    frame_tokens: int = 0
    #: Bytes of the state of a prompt in the layers with linear attention, in whatever number of tokens.
    state_bytes: int = 0

    def frames_gib(self, tokens: int) -> float:
        """Return the memory of Molmo 2's vision tower for the frames of a step of this many tokens, in GiB.

        vLLM keeps the output of every layer until the last (`molmo2.py`, `hidden_states.append`), where the layers of
        the text decoder follow one another in the same memory.
        """
        return tokens // self.frame_tokens * self.frame_bytes / GIB if self.frame_tokens else 0.0

    def layer_gib(self, tokens: int) -> float:
        """Return the memory of the widest layer for this many tokens in 16 bit, in GiB."""
        return tokens * self.width * 2 / GIB


@cache
def _sizes(model: str) -> Sizes:
    built = on_meta_device(model)
    parameters = sum(p.numel() for p in built.parameters())
    if not hasattr(built, "lm_head"):
        patch, width = _patch_and_width(built)
        return Sizes(parameters, 0, 0, width, 0.0, patch)
    text: Any = built.config.get_text_config()
    vision: Any = getattr(built.config, "vision_config", None)
    if built.config.is_encoder_decoder:
        return Sizes(parameters, 0, 0, 0, _image_gib(text, vision))
    from torch import nn

    decoder = sum(m.weight.numel() for m in built.model.language_model.modules() if isinstance(m, nn.Linear))
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    linear = kinds.count("linear_attention")
    cache_bytes = 2 * (len(kinds) - linear) * text.num_key_value_heads * text.head_dim * 2
    state_bytes = linear * _state_bytes(text) if linear else 0
    patches = getattr(vision, "spatial_merge_size", 3) ** 2  # patches per token; Molmo 2 pools 3 x 3
    sizes = Sizes(
        parameters, decoder, cache_bytes, _widest(text) + patches * _widest(vision), 0.0, state_bytes=state_bytes
    )
    if built.config.model_type != "molmo2":
        return sizes
    seen, adapter = vision.num_position_embeddings, built.config.adapter_config
    kept = vision.num_hidden_layers * vision.hidden_size
    widest = vision.intermediate_size + len(adapter.vision_feature_layer) * vision.hidden_size
    pooled = math.ceil(math.isqrt(seen) / _POOLED) ** 2
    return replace(sizes, frame_bytes=2 * seen * (kept + widest), frame_tokens=pooled + _FRAME_MARKS)


def _state_bytes(text: Any) -> int:
    """Return the bytes of a prompt's state in a layer with linear attention: float32, and the convolution in 16 bit."""
    key, value = text.linear_key_head_dim, text.linear_value_head_dim
    channels = 2 * text.linear_num_key_heads * key + text.linear_num_value_heads * value
    return text.linear_num_value_heads * key * value * 4 + channels * (text.linear_conv_kernel_dim - 1) * 2


def _patch_and_width(built: Any) -> tuple[int, int]:
    """Return the side of a patch or cell of a backbone in pixels, and the numbers per patch in its widest layer."""
    config = built.config
    if config.model_type == "timm_wrapper":
        return _widest_stage([(part["reduction"], part["num_chs"]) for part in built.timm_model.feature_info])
    if config.model_type == "dinov3_convnext":
        return _widest_stage([(4 << at, channels) for at, channels in enumerate(config.hidden_sizes)])
    if hasattr(config, "mlp_ratio"):
        return config.patch_size, _MLP * config.hidden_size
    return config.patch_size, _widest(config)


def _widest_stage(stages: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the last stride and the numbers per cell of that stride in the widest of stages (stride, channels)."""
    patch = stages[-1][0]
    return patch, max(_MLP * channels * (patch // stride) ** 2 for stride, channels in stages)


def _widest(config: Any) -> int:
    """Return the width of the gated MLP, the residual stream and the attention inputs together."""
    return 2 * config.intermediate_size + 6 * config.hidden_size


def _image_gib(text: Any, vision: Any) -> float:
    """Return the memory for an image of Florence-2, whose first stage has a token per 4 x 4 pixels, in GiB."""
    width, stride = vision.embed_dim[0], vision.patch_stride[0]
    encoded = (768 // stride) ** 2 * 9 * width * 2
    scores = text.vocab_size * (2 + 4 + 4)  # scores of the next token
    cache = 2 * text.decoder_layers * text.d_model * 2 * (OCR_TOKENS + 583)
    return (encoded + scores + cache) / GIB


def _weights_gib(name: str, engine: EngineSpec, sizes: Sizes) -> float:
    wide = BYTES[engine.dtype]
    narrow = wide if (stored := _weight_format(name, engine)) is None else QUANTIZED[stored]
    return ((sizes.parameters - sizes.decoder) * wide + sizes.decoder * narrow) / GIB


def weights_gib(name: str, engine: EngineSpec) -> float:
    """Return the memory of the weights of a model of transformers or vLLM, in GiB.

    Raises:
        ConfigError: The sizes of the model are unknown, or its quantization is another one.
    """
    return _weights_gib(name, engine, _sizes(engine.model))


def _weight_format(name: str, engine: EngineSpec) -> WeightFormat | None:
    """Return the format of the decoder's weights; with quantization: auto, of the largest weights it may choose.

    Raises:
        ConfigError: The checkpoint has other weights than the profile says.
    """
    wanted = engine.quantization
    if engine.backend != "vllm":
        return None
    stored = stored_quantization(engine.model)
    if wanted == "auto":
        return "fp8" if stored is None else stored.weight_format or "fp8"
    if stored is not None and stored.weight_format is None:
        raise ConfigError(
            f"engines.{name}.model: {engine.model} has {stored.bits}-bit weights ({stored.method}), which are neither "
            "fp8 nor int4; use another checkpoint"
        )
    if stored is not None and stored.weight_format != wanted:
        raise ConfigError(
            f"engines.{name}.quantization: {engine.model} has {stored.weight_format} weights ({stored.method}); set it "
            f"to {stored.weight_format}"
        )
    if wanted == "int4" and known_unquantized(engine.model):
        raise ConfigError(
            f"engines.{name}.quantization is int4, and the weights of {engine.model} are not quantized by its "
            "config.json; name a 4-bit checkpoint, or set fp8, which vLLM can make on load"
        )
    return wanted


def _thumbs(engine: EngineSpec) -> int:
    return engine.features.max_thumbs or 64


def _vllm_need(need: GpuMemoryNeed, engine: EngineSpec, gpu_gib: float) -> GpuMemoryNeed:
    """Add the KV cache: the size in the profile, or what the share of the GPU leaves."""
    sizes, settings, context = _sizes(engine.model), engine.vllm, engine.language.context_tokens
    tokens = int(settings.arguments.get("max_num_batched_tokens", min(STEP_TOKENS, context * need.prompts)))
    activations = max(sizes.layer_gib(tokens), sizes.frames_gib(tokens)) + (0 if settings.enforce_eager else GRAPHS_GIB)
    parts = max(1, round(engine.num_gpus))
    need = replace(need, weights=need.weights / parts, activations=activations)
    if settings.gpu_memory_utilization is not None:
        cache, field = settings.gpu_memory_utilization * gpu_gib - need.total, "gpu_memory_utilization"
    else:
        cache, field = settings.kv_cache_gib or 0.0, "kv_cache_gib"
    one = (context * sizes.cache_bytes + sizes.state_bytes) / parts / GIB
    if cache < one:
        raise ConfigError(
            f"engines.{need.engine}.vllm.{field} leaves {max(0.0, cache):.2f} GiB for the KV cache on a GPU of "
            f"{gpu_gib:g} GiB, and one prompt of {context} tokens takes {one:.2f}: raise it, or lower "
            "language.context_tokens"
        )
    return replace(need, kv_cache=cache, cached_prompts=cache / one)


def _capped(need: GpuMemoryNeed, engine: EngineSpec) -> GpuMemoryNeed:
    """Add the rest up to gpu_memory_gib, which PyTorch may allocate and keep."""
    cap = engine.gpu_memory_gib
    if cap is None or engine.backend in ("onnx", "tensorrt"):  # neither allocates through PyTorch
        return need
    needed = need.total - need.context
    if needed > cap:
        raise ConfigError(
            f"engines.{need.engine}.gpu_memory_gib is {cap:g} and it needs {needed:.1f} GiB (weights "
            f"{need.weights:.1f}): raise it, or lower the batch sizes"
        )
    return replace(need, reserved=cap - needed)


def _file_gib(name: str, model: str) -> float:
    """Return the size of an exported file with the weights beside it, in GiB."""
    file = Path(model)
    if not file.is_file():
        raise ConfigError(f"engines.{name}.model: there is no file {model}; write it with `roadwork export` first")
    data = file.with_name(f"{file.name}.data")
    return sum(part.stat().st_size for part in (file, data) if part.is_file()) / GIB
