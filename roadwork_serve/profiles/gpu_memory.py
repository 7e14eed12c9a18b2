"""What an engine needs of its card, GiB.

Weights are counted on the meta device, so nothing is downloaded. What is quantised, and to what, follows the
checkpoints: the linear layers of the text decoder alone; embeddings, the head and the vision tower stay in 16 bit.
(Where vLLM makes fp8 on load it also takes those of the vision tower, which is not counted.) Checked against the
published sizes of Qwen3-VL-8B: 16.3 GiB in bf16, 9.9 in fp8, about 6.8 in 4 bit. Activations, CUDA graphs and the
overhead of a process are estimates, and said to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.model_sizes import on_meta_device, stored_as
from roadwork_serve.profiles.profile import ROLES, EngineSpec, Profile, Quantization, StageName, StageSpec

GIB = 2**30
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# Bytes a weight. 4 bits have a scale of 16 bits and a zero point of 4 for every 128 weights.
QUANTISED: dict[Quantization, float] = {"fp8": 1.0, "awq": (4 + 20 / 128) / 8}
CONTEXT_GIB = 0.5  # of CUDA, a process: what nvidia-smi shows before anything is loaded
GRAPHS_GIB = 0.5  # CUDA graphs that vLLM records for its batch sizes
RUNTIME_GIB = 1.0  # what ONNX Runtime and TensorRT take to work in, beside the weights of their file
STEP_TOKENS = 2048  # vLLM's default of max_num_batched_tokens for an engine inside another program
FRAMES_READ = 3  # of a clip, by stage 2A
WRITTEN_TOKENS = 384  # of a picture, by stage 2A at most


@dataclass(frozen=True, slots=True)
class GpuMemoryNeed:
    """What one replica of an engine needs of its card, GiB.

    parameters: how many weights the model has; 0 for a file of another runtime. spare: what the engine has set aside
    beyond that: it may take as much as its cap or its share. prompts: in work at most. holds: how many of them fit
    the cache with their context full; None where there is no cache.
    """

    engine: str
    model: str
    parameters: int
    weights: float
    kv_cache: float
    activations: float
    context: float = CONTEXT_GIB
    spare: float = 0.0
    prompts: int = 0
    holds: float | None = None

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache + self.activations + self.context + self.spare

    @property
    def asleep(self) -> "GpuMemoryNeed":
        """What stays on the card of an engine whose turn it is not: vLLM keeps its context and its graphs."""
        graphs = min(self.activations, GRAPHS_GIB)
        return replace(self, model=f"{self.model}, asleep", weights=0, kv_cache=0, activations=graphs, spare=0)


def gpu_memory_needs(profile: Profile, names: tuple[str, ...], card_gib: float) -> tuple[GpuMemoryNeed, ...]:
    """What one process needs of a card of this size, engine by engine.

    names: an engine, or several that take turns: the hungriest is awake. An engine on several cards needs its part
    of each. Raises ConfigError naming the line to mend.
    """
    users = profile.users()
    needs = [gpu_memory_need(name, profile.engines[name], users[name], card_gib) for name in names]
    awake = max(range(len(needs)), key=lambda i: needs[i].total - needs[i].asleep.total)
    return tuple(need if i == awake else need.asleep for i, need in enumerate(needs))


def gpu_memory_need(
    name: str, engine: EngineSpec, users: Mapping[StageName, StageSpec], card_gib: float
) -> GpuMemoryNeed:
    """What one replica of an engine needs of a card of this size, asked by these stages. Raises ConfigError."""
    prompts = sum(spec.max_batch * spec.slots for spec in users.values())
    role = ROLES[next(iter(users))]
    if engine.runs in ("onnx", "tensorrt"):
        return _capped(GpuMemoryNeed(name, engine.model, 0, _file_gib(name, engine.model), 0, RUNTIME_GIB), engine)
    sizes = _sizes(engine.model)
    weights = _weights_gib(name, engine, sizes)
    if role == "features":
        tokens = _thumbs(engine) * (((engine.features.side or 224) // 16) ** 2 + 5)
        return _capped(GpuMemoryNeed(name, engine.model, sizes.parameters, weights, 0, sizes.layer_gib(tokens)), engine)
    if role == "reader":
        pictures = max(spec.max_batch * spec.options.get("frames_read", FRAMES_READ) for spec in users.values())
        taken = pictures * sizes.picture_gib
        return _capped(GpuMemoryNeed(name, engine.model, sizes.parameters, weights, 0, taken), engine)
    if engine.runs == "vllm":
        return _of_vllm(
            GpuMemoryNeed(name, engine.model, sizes.parameters, weights, 0, 0, prompts=prompts), engine, card_gib
        )
    tokens = engine.language.context_tokens * max(spec.max_batch for spec in users.values())
    cache = prompts * engine.language.context_tokens * sizes.cache_bytes / GIB
    need = GpuMemoryNeed(name, engine.model, sizes.parameters, weights, cache, sizes.layer_gib(tokens), prompts=prompts)
    return _capped(replace(need, holds=float(prompts)), engine)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a model. decoder: weights that quantising makes smaller. cache_bytes: keys and values of a token, 16 bit.

    wide: numbers a token has at once in the widest layer. picture_gib: what one picture of a reader takes.
    """

    parameters: int
    decoder: int
    cache_bytes: int
    wide: int
    picture_gib: float

    def layer_gib(self, tokens: int) -> float:
        """Of so many tokens at once, in 16 bit."""
        return tokens * self.wide * 2 / GIB


@cache
def _sizes(model: str) -> Sizes:
    built = on_meta_device(model)
    text: Any = built.config.get_text_config()
    vision: Any = getattr(built.config, "vision_config", None)
    parameters = sum(p.numel() for p in built.parameters())
    if not hasattr(built, "lm_head"):
        return Sizes(parameters, 0, 0, _widest(text), 0.0)
    if built.config.is_encoder_decoder:
        return Sizes(parameters, 0, 0, 0, _picture_gib(text, vision))
    from torch import nn

    decoder = sum(m.weight.numel() for m in built.model.language_model.modules() if isinstance(m, nn.Linear))
    cache_bytes = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 2
    patches = getattr(vision, "spatial_merge_size", 3) ** 2  # that make one token; Molmo 2 pools 3 x 3 of a frame
    return Sizes(parameters, decoder, cache_bytes, _widest(text) + patches * _widest(vision), 0.0)


def _widest(config: Any) -> int:
    """Both halves of the gated MLP beside the residual stream and the attention's inputs."""
    return 2 * config.intermediate_size + 6 * config.hidden_size


def _picture_gib(text: Any, vision: Any) -> float:
    """Florence-2's first stage has a token for every 4 x 4 pixels."""
    width, stride = vision.embed_dim[0], vision.patch_stride[0]
    seen = (768 // stride) ** 2 * 9 * width * 2
    written = text.vocab_size * (2 + 4 + 4)  # scores of the token that is being written
    kept = 2 * text.decoder_layers * text.d_model * 2 * (WRITTEN_TOKENS + 583)
    return (seen + written + kept) / GIB


def _weights_gib(name: str, engine: EngineSpec, sizes: Sizes) -> float:
    wide = BYTES[engine.dtype]
    quantization = engine.quantization
    if engine.runs == "vllm":
        stored = stored_as(engine.model)
        if stored is not None and stored != quantization:
            raise ConfigError(f"engines.{name}.quantised: {engine.model} holds {stored} weights; set it to {stored}")
        if quantization == "awq" and stored is None:
            raise ConfigError(
                f"engines.{name}.quantised is awq, and {engine.model} is no AWQ checkpoint by its name or config.json; "
                "name one that is, or set fp8, which vLLM makes on load"
            )
    narrow = QUANTISED[quantization] if quantization else wide
    return ((sizes.parameters - sizes.decoder) * wide + sizes.decoder * narrow) / GIB


def _thumbs(engine: EngineSpec) -> int:
    return engine.features.max_thumbs or 64


def _of_vllm(need: GpuMemoryNeed, engine: EngineSpec, card_gib: float) -> GpuMemoryNeed:
    """With the cache that the profile reserves, or what its share of the card leaves for one."""
    sizes, settings, context = _sizes(engine.model), engine.vllm, engine.language.context_tokens
    tokens = int(settings.arguments.get("max_num_batched_tokens", min(STEP_TOKENS, context * need.prompts)))
    activations = sizes.layer_gib(tokens) + (0 if settings.enforce_eager else GRAPHS_GIB)
    parts = max(1, round(engine.num_gpus))
    need = replace(need, weights=need.weights / parts, activations=activations)
    if settings.gpu_memory_utilization is not None:
        cache, line = settings.gpu_memory_utilization * card_gib - need.total, "gpu_memory_utilization"
    else:
        cache, line = settings.kv_cache_gib or 0.0, "kv_cache_gib"
    one = context * sizes.cache_bytes / parts / GIB
    if cache < one:
        raise ConfigError(
            f"engines.{need.engine}.vllm.{line} leaves {max(0.0, cache):.2f} GiB for the KV cache on a card of "
            f"{card_gib:g} GiB, and one prompt of {context} tokens takes {one:.2f}: raise it, or lower "
            "language.context_tokens"
        )
    return replace(need, kv_cache=cache, holds=cache / one)


def _capped(need: GpuMemoryNeed, engine: EngineSpec) -> GpuMemoryNeed:
    """With what is left up to gpu_memory_gib, which PyTorch may take and keep."""
    cap = engine.gpu_memory_gib
    if cap is None or engine.runs in ("onnx", "tensorrt"):  # neither allocates through PyTorch
        return need
    wanted = need.total - need.context
    if wanted > cap:
        raise ConfigError(
            f"engines.{need.engine}.gpu_memory_gib is {cap:g} and it needs {wanted:.1f} GiB (weights "
            f"{need.weights:.1f}): raise it, or give it less to do at once"
        )
    return replace(need, spare=cap - wanted)


def _file_gib(name: str, model: str) -> float:
    """Of an export, with the weights beside it."""
    file = Path(model)
    if not file.is_file():
        raise ConfigError(f"engines.{name}.model: there is no file {model}; write it with `roadwork export` first")
    data = file.with_name(f"{file.name}.data")
    return sum(part.stat().st_size for part in (file, data) if part.is_file()) / GIB
