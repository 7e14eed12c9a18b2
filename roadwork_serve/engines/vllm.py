"""Vision language models under vLLM, with continuous batching, prefix caching, and FP8 or AWQ weights.

Experimental on a GPU, not yet run on hardware; tested with vLLM on a CPU.
"""

# vLLM is not in every environment:
# pyright: reportMissingImports=false

import asyncio
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from roadwork_serve.engines.chat import chat_text, encoder, end_of_reasoning, metadata, reasoning_stop_tokens
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.molmo import VllmNames
from roadwork_serve.engines.vlm import NO, YES, Prompt, VlmAnswer, from_logprobs, gather_answers, spellings
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.profile import EngineSpec

GIB = 2**30
CPU_CACHE_GIB = 1.0
RESERVED = (
    "dtype", "enable_sleep_mode", "enforce_eager", "gpu_memory_utilization", "hf_overrides", "kv_cache_memory_bytes",
    "limit_mm_per_prompt", "max_model_len", "max_num_seqs", "mm_processor_kwargs", "model", "quantization", "revision",
    "trust_remote_code",
)  # fmt: skip


class VllmEngine:
    """Qwen3-VL, Molmo 2 and other models that vLLM runs. The weights are in a process of their own.

    Experimental on a GPU, not yet run on hardware.
    """

    def __init__(self, engine: EngineSpec, *, photos: bool, clips: bool, concurrency: int, stuck_s: float) -> None:
        """Start vLLM and load the model.

        Args:
            engine: Settings of the profile.
            photos: Prompts may hold photos. Without them no memory is reserved for photos.
            clips: Prompts may hold clips. Without them no memory is reserved for clips.
            concurrency: Largest number of prompts in flight; further ones queue inside vLLM.
            stuck_s: With prompts in flight and no answer for this long, in seconds, the engine is considered stuck.

        Raises:
            ConfigError: vLLM is not installed, or the profile sets an argument twice.
            ModelError: The model cannot be loaded.
        """
        try:
            from transformers import AutoProcessor
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise ConfigError(
                f"{engine.model} needs vllm, which cannot be imported ({error}): install it with `make gpu`, or set "
                "backend: transformers"
            ) from error
        from roadwork_serve.engines.loading import load_processor

        self.processor = load_processor(AutoProcessor, engine.model, LoadOptions.of(engine))
        self.tokenizer = self.processor.tokenizer
        encode = encoder(self.tokenizer)
        self.yes, self.no = spellings(encode, YES), spellings(encode, NO)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # disable telemetry
        if engine.device == "cpu":
            _set_cpu_threads(engine.threads)
        self._context_tokens = engine.language.context_tokens
        self._watchdog = _Watchdog(stuck_s)
        try:
            arguments = _arguments(engine, self.processor, photos, clips, concurrency)
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except (ConfigError, ModelError):
            raise
        except Exception as error:  # vLLM raises many kinds of errors
            raise ModelError(
                f"vLLM cannot start {engine.model}: {error}. The cause is in its log, above. If it is memory, lower "
                "vllm.kv_cache_gib or vllm.gpu_memory_utilization, or language.context_tokens; `roadwork plan` "
                "reports what fits."
            ) from error
        eos = self._engine.model_config.try_get_generation_config().get("eos_token_id")
        self._ends = sorted(reasoning_stop_tokens(self.tokenizer, eos))

    async def ask(self, prompts: Sequence[Prompt], reasoning_tokens: int = 0) -> list[VlmAnswer]:
        """See `LanguageEngine`. Cancelling a call removes its prompts from the engine."""
        return await gather_answers(self._ask(prompt, reasoning_tokens) for prompt in prompts)

    async def check(self) -> None:
        """See `LanguageEngine`. Detects a process that has ended, and one that is stuck."""
        await self._engine.check_health()
        if ended := self._engine.engine_core.resources.engine_manager.finished_procs():
            raise RuntimeError(
                f"vLLM's processes have ended: {', '.join(ended)}"
            )  # check_health misses this if its own monitor fails
        self._watchdog.check()

    async def sleep(self) -> None:
        """Move the weights off the GPU and drop the KV cache. No prompt may be in flight."""
        await self._engine.sleep(level=1)

    async def wake(self) -> None:
        """Load the weights onto the GPU again."""
        await self._engine.wake_up()

    async def aclose(self) -> None:
        """End the process with the weights."""
        self._engine.shutdown()  # from this thread: it first ends the task that listens to the process

    async def _ask(self, prompt: Prompt, reasoning_tokens: int) -> VlmAnswer:
        text = chat_text(self.processor, prompt, bool(reasoning_tokens))
        tokens, media = encoder(self.tokenizer)(text), _media(prompt)
        if not reasoning_tokens:
            return await self._answer(tokens, media)
        end = encoder(self.tokenizer)(end_of_reasoning(text))
        reasoning, preprocess_ms, compute_ms = await self._think(tokens, media, reasoning_tokens, len(end) + 1)
        answer = await self._answer([*tokens, *reasoning, *end], media)
        return replace(
            answer,
            reasoning=self.tokenizer.decode(reasoning, skip_special_tokens=True).strip(),
            tokens=len(reasoning) + len(end) + 1,
            preprocess_ms=answer.preprocess_ms + preprocess_ms,
            compute_ms=answer.compute_ms + compute_ms,
        )

    async def _answer(self, tokens: list[int], media: dict[str, Any]) -> VlmAnswer:
        """Compute P(YES) from the log-probabilities of the next token, before sampling parameters apply."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        token_ids = [*self.yes, *self.no]
        params = SamplingParams(
            max_tokens=1, logprob_token_ids=token_ids, temperature=0.0, detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        prompt, preprocess_ms = await self._render(tokens, media)
        output, compute_ms = await self._generate(prompt, params)
        found = output.logprobs[0]
        yes, no = ([found[token].logprob for token in part] for part in (self.yes, self.no))
        return replace(from_logprobs(yes, no), preprocess_ms=preprocess_ms, compute_ms=compute_ms)

    async def _think(
        self, tokens: list[int], media: dict[str, Any], most: int, after: int
    ) -> tuple[list[int], float, float]:
        """Return reasoning tokens, preprocess_ms and compute_ms.

        Args:
            tokens: Tokens of the prompt.
            media: Image or clip of the prompt.
            most: Largest number of tokens to generate.
            after: Number of tokens that must still fit into the context afterwards.

        Raises:
            ModelError: The prompt leaves no room for reasoning.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        prompt, preprocess_ms = await self._render(tokens, media)
        room = self._context_tokens - len(prompt["prompt_token_ids"]) - after
        if room < 1:
            raise ModelError(
                f"a prompt of {len(prompt['prompt_token_ids'])} tokens leaves no room for reasoning: raise "
                f"language.context_tokens above {self._context_tokens}, or lower language.max_pixels"
            )
        params = SamplingParams(
            max_tokens=min(most, room), stop_token_ids=self._ends, temperature=0.0, detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        output, compute_ms = await self._generate(prompt, params)
        reasoning = list(output.token_ids)
        if reasoning and reasoning[-1] in self._ends:
            reasoning.pop()
        return reasoning, preprocess_ms, compute_ms

    async def _render(self, tokens: list[int], media: dict[str, Any]) -> tuple[Any, float]:
        """Return the preprocessed prompt and the time in milliseconds.

        Raises:
            ModelError: vLLM rejects the prompt.
        """
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        began = time.perf_counter()
        raw = {"prompt_token_ids": tokens, "multi_modal_data": media}
        parsed = parse_model_prompt(self._engine.model_config, raw)
        try:
            (rendered,) = await self._engine.renderer.render_cmpl_async([parsed])
        except ValueError as error:
            raise ModelError(f"vLLM cannot use a prompt: {error}") from error
        return rendered, 1000 * (time.perf_counter() - began)

    async def _generate(self, prompt: Any, params: Any) -> tuple[Any, float]:
        """Return the completion and the time in milliseconds.

        Raises:
            ModelError: vLLM rejects the prompt.
        """
        began = time.perf_counter()
        with self._watchdog.watch():
            try:
                outputs = [output async for output in self._engine.generate(prompt, params, uuid.uuid4().hex)]
            except ValueError as error:
                raise ModelError(f"vLLM rejects a prompt: {error}; see language.context_tokens") from error
        return outputs[-1].outputs[0], 1000 * (time.perf_counter() - began)


class _Watchdog:
    """Measures how long an engine has had prompts in flight and answered none.

    Callers time out much earlier, and their cancellations do not reset it.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._in_flight = 0
        self._since_s = 0.0  # time of the first prompt in flight or of the last answer
        self._before_s = 0.0  # earlier time without an answer, which ended in cancellation

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch a call. A rejected prompt counts as an answer, a cancelled one does not."""
        if not self._in_flight:
            self._since_s = time.monotonic()
        self._in_flight += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if self._in_flight == 1:
                self._before_s += time.monotonic() - self._since_s
            raise
        except BaseException:
            self._answered()
            raise
        else:
            self._answered()
        finally:
            self._in_flight -= 1

    def check(self) -> None:
        """Raise RuntimeError if there has been no answer for too long."""
        silent_s = self._before_s + (time.monotonic() - self._since_s if self._in_flight else 0.0)
        if silent_s > self._most_s:
            raise RuntimeError(f"vLLM has had prompts in flight for {silent_s:.0f} s and answered none")

    def _answered(self) -> None:
        self._before_s, self._since_s = 0.0, time.monotonic()


def _arguments(engine: EngineSpec, processor: Any, photos: bool, clips: bool, concurrency: int) -> dict[str, Any]:
    """Return vLLM's arguments for an engine of a profile.

    Raises:
        ConfigError: vllm.arguments sets one that the profile sets elsewhere.
    """
    extra, settings = engine.vllm.arguments, engine.vllm
    if taken := sorted(set(extra) & set(RESERVED)):
        raise ConfigError(f"vllm.arguments has {taken[0]}, which the profile sets elsewhere; remove it")
    cache_gib = settings.kv_cache_gib
    if cache_gib is None and engine.device == "cpu" and settings.gpu_memory_utilization is None:
        cache_gib = CPU_CACHE_GIB
    share = settings.gpu_memory_utilization
    if cache_gib is not None:  # the share is then only the free memory vLLM requires at the start
        share = 0.01
    return {
        "model": engine.model,
        "revision": engine.revision,
        "trust_remote_code": engine.trust_remote_code,
        "dtype": engine.dtype,
        # A quantized checkpoint declares it in its config; other weights are converted to fp8 on load.
        "quantization": "fp8" if engine.quantization == "fp8" and not _is_quantized(engine) else None,
        "max_model_len": engine.language.context_tokens,
        "max_num_seqs": concurrency,
        "limit_mm_per_prompt": {"image": int(photos), "video": int(clips)},
        "hf_overrides": VllmNames(processor.tokenizer),
        "mm_processor_kwargs": _pixels(engine, processor, clips),
        "gpu_memory_utilization": share,
        "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * GIB),
        "enforce_eager": settings.enforce_eager,
        "enable_sleep_mode": engine.time_slice_group is not None,
        "enable_prefix_caching": True,
        "enable_log_requests": False,
        "disable_log_stats": True,
        **extra,
    }


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


def _is_quantized(engine: EngineSpec) -> bool:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        engine.model, revision=engine.revision, trust_remote_code=engine.trust_remote_code
    )
    return getattr(config, "quantization_config", None) is not None


def _media(prompt: Prompt) -> dict[str, Any]:
    if not prompt.timestamps_s:
        return {"image": prompt.images[0]}
    frames = np.stack([np.asarray(image) for image in prompt.images])
    return {"video": [(frames, metadata(prompt) | {"do_sample_frames": False})]}


def _set_cpu_threads(threads: int) -> None:
    """Set the threads of vLLM's process on a CPU, without pinning, since several engines would pin the same cores."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = str(threads)
