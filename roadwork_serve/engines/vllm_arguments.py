"""The arguments of vLLM's engine for an engine of a profile."""

# vLLM is not in every environment:
# pyright: reportMissingImports=false

from typing import Any

from roadwork_serve.engines.chat import token_id
from roadwork_serve.engines.molmo import VllmNames
from roadwork_serve.engines.quantization import Weights
from roadwork_serve.engines.vlm import NO, YES
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import PROCESSOR_CACHE_GIB, EngineSpec

GIB = 2**30
CPU_CACHE_GIB = 1.0
RESERVED = (
    "dtype", "enable_sleep_mode", "enforce_eager", "gpu_memory_utilization", "hf_overrides", "kv_cache_memory_bytes",
    "limit_mm_per_prompt", "max_model_len", "max_num_seqs", "mm_processor_kwargs", "model", "quantization",
    "quantization_config", "revision", "runner", "scheduling_policy", "trust_remote_code",
)  # fmt: skip


class ConfigChanges:
    """Changes a checkpoint's configuration for vLLM. Can be pickled."""

    def __init__(self, tokenizer: Any, score_head: bool) -> None:
        self._names = VllmNames(tokenizer)
        self._score = None
        if score_head:
            missing = [word for word in (NO[0], YES[0]) if token_id(tokenizer, word) is None]
            if missing:
                raise ModelError(f"vllm.score_head: {missing[0]} is not a token of this model; remove score_head")
            self._score = [NO[0], YES[0]]

    def __call__(self, config: Any) -> Any:
        """Change the configuration in place and return it."""
        config = self._names(config)
        # The product with the output layer accumulates in float32 anyway. In bfloat16 the logits of an answer, 16 to
        # 32, would be rounded to multiples of 1/8.
        config.head_dtype = "float32"
        text = config.get_text_config()
        if (tied := getattr(config, "tie_word_embeddings", None)) is not None:  # an empty configuration comes first
            text.tie_word_embeddings = tied  # vLLM 0.32 reads it there, transformers in the whole configuration
        if self._score is not None:
            config.architectures = ["Qwen3VLForSequenceClassification"]
            config.num_labels = 1
            for each in (config, text):
                each.classifier_from_token, each.method = self._score, "from_2_way_softmax"
        return config


def engine_arguments(
    engine: EngineSpec, weights: Weights, processor: Any, photos: bool, clips: bool, concurrency: int
) -> dict[str, Any]:
    """Return vLLM's arguments.

    Raises:
        ConfigError: vllm.arguments sets one that the profile sets elsewhere.
        ModelError: The model cannot be used as the profile says.
    """
    extra, settings = engine.vllm.arguments, engine.vllm
    if taken := sorted(set(extra) & set(RESERVED)):
        raise ConfigError(f"vllm.arguments has {taken[0]}, which the profile sets elsewhere; remove it")
    if settings.score_head and "Qwen3VL" not in type(processor).__name__:
        raise ConfigError("vllm.score_head is only for Qwen3-VL; remove it")
    cache_gib = settings.kv_cache_gib
    if cache_gib is None and engine.device == "cpu" and settings.gpu_memory_utilization is None:
        cache_gib = CPU_CACHE_GIB
    share = settings.gpu_memory_utilization
    if cache_gib is not None:  # the share is then only the free memory vLLM requires at the start
        share = 0.01
    return {
        "model": weights.model,
        "revision": weights.revision,
        "trust_remote_code": engine.trust_remote_code,
        "dtype": engine.dtype,
        "max_model_len": engine.language.context_tokens,
        "max_num_seqs": concurrency,
        "limit_mm_per_prompt": {"image": int(photos), "video": int(clips)},
        "hf_overrides": ConfigChanges(processor.tokenizer, settings.score_head),
        "mm_processor_kwargs": _pixels(engine, processor, clips),
        "mm_processor_cache_gb": PROCESSOR_CACHE_GIB,
        "gpu_memory_utilization": share,
        "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * GIB),
        "enforce_eager": settings.enforce_eager,
        "enable_sleep_mode": engine.time_slice_group is not None,
        "enable_prefix_caching": True,
        "enable_log_requests": False,
        "disable_log_stats": True,
        "scheduling_policy": "priority",
        **({"runner": "pooling"} if settings.score_head else {}),
        **weights.arguments,
        **extra,
        **_compilation(engine, concurrency),
    }


def _compilation(engine: EngineSpec, concurrency: int) -> dict[str, Any]:
    """Return the settings of CUDA graphs: of the vision tower, and of steps with a token for each prompt in flight.

    vLLM ignores the first for models that do not support it.
    """
    given = engine.vllm.arguments.get("compilation_config", {})
    if engine.device != "cuda" or engine.vllm.enforce_eager:
        return {}
    sizes = [size for size in (1, 2, 4, *range(8, concurrency, 8)) if size < concurrency]
    graphs = {"cudagraph_mm_encoder": True, "cudagraph_capture_sizes": [*sizes, concurrency]}
    return {"compilation_config": graphs | given}


def _pixels(engine: EngineSpec, processor: Any, clips: bool) -> dict[str, Any]:
    """Return the pixel limits of the processor: of an image, and of a clip as far as it fits into the context.

    Without the second vLLM would reserve memory for clips many times as long.
    """
    caps: dict[str, Any] = {}
    if (most := engine.language.max_pixels) is not None:
        size = dict(processor.image_processor.size)
        if "longest_edge" not in size:
            raise ModelError(
                "This model's image processor has a fixed size: remove language.max_pixels from the engine."
            )
        caps["images_kwargs"] = {"size": _capped(size, most)}
    frames = processor.video_processor
    if clips and "longest_edge" in dict(frames.size):  # Qwen3-VL counts the pixels of all frames together
        pixels_per_token = (frames.patch_size * frames.merge_size) ** 2 * frames.temporal_patch_size
        most = min(dict(frames.size)["longest_edge"], engine.language.context_tokens * pixels_per_token)
        caps["videos_kwargs"] = {"size": _capped(dict(frames.size), most)}
    return caps


def _capped(size: dict[str, Any], most: int) -> dict[str, int]:
    return {"shortest_edge": min(size.get("shortest_edge") or most, most), "longest_edge": most}
