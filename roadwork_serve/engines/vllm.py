"""Runs checkpoints with vLLM inside this process: continuous batching, prefix caching, FP8 and AWQ weights."""

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

from roadwork_serve.engines.chat import chat_text, encoder, end_of_turn, ends_of_thought, metadata
from roadwork_serve.engines.molmo import VllmNames
from roadwork_serve.engines.vlm import NO, YES, Prompt, VlmAnswer, from_logprobs, gather_answers, spellings
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.profile import EngineSpec

GIB = 2**30
CPU_CACHE_GIB = 1.0
OURS = (
    "dtype", "enable_sleep_mode", "enforce_eager", "gpu_memory_utilization", "hf_overrides", "kv_cache_memory_bytes",
    "limit_mm_per_prompt", "max_model_len", "max_num_seqs", "mm_processor_kwargs", "model", "quantization", "revision",
    "trust_remote_code",
)  # fmt: skip


class VllmEngine:
    """Qwen3-VL, Molmo 2 and whatever else this vLLM runs. A process of its own holds the weights.

    photos, clips: what prompts hold; what is not asked for takes no memory. concurrency: prompts in work at most, more
    wait inside. stuck_s: an engine that has prompts in work for so long and answers none is taken to hang.
    Raises ConfigError when vLLM is not installed or the profile says a thing twice, ModelError when the model cannot
    be loaded.
    """

    def __init__(self, engine: EngineSpec, *, photos: bool, clips: bool, concurrency: int, stuck_s: float) -> None:
        try:
            from transformers import AutoProcessor
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise ConfigError(
                f"{engine.model} wants vllm, which cannot be imported ({error}): install it with `make gpu`, or set "
                "runs: transformers"
            ) from error
        from roadwork_serve.engines.loading import load_processor

        self.processor = load_processor(
            AutoProcessor, engine.model, trust_remote_code=engine.trust_remote_code, revision=engine.revision
        )
        self.tokenizer = self.processor.tokenizer
        encode = encoder(self.tokenizer)
        self.yes, self.no = spellings(encode, YES), spellings(encode, NO)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers about this machine
        if engine.device == "cpu":
            _compute_with(engine.threads)
        self._context_tokens = engine.language.context_tokens
        self._silence = _Silence(stuck_s)
        try:
            arguments = _arguments(engine, self.processor, photos, clips, concurrency)
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except (ConfigError, ModelError):
            raise
        except Exception as error:  # whatever any of its many parts raises
            raise ModelError(
                f"vLLM cannot start {engine.model}: {error}. Its own log, above, has the cause. If it is memory, lower "
                "vllm.kv_cache_gib or vllm.gpu_memory_utilization, or language.context_tokens; `roadwork plan` says "
                "what fits."
            ) from error
        eos = self._engine.model_config.try_get_generation_config().get("eos_token_id")
        self._ends = sorted(ends_of_thought(self.tokenizer, eos))

    async def ask(self, prompts: Sequence[Prompt], thought_tokens: int = 0) -> list[VlmAnswer]:
        """See `LanguageEngine`. Prompts of a cancelled call leave the engine at once."""
        return await gather_answers(self._ask(prompt, thought_tokens) for prompt in prompts)

    async def check(self) -> None:
        """See `LanguageEngine`. Raises too when the process of the weights has ended, or lives and answers nothing."""
        await self._engine.check_health()
        if ended := self._engine.engine_core.resources.engine_manager.finished_procs():
            raise RuntimeError(f"vLLM's processes have ended: {', '.join(ended)}")  # it goes by a watch that can fail
        self._silence.check()

    async def sleep(self) -> None:
        """Move the weights off the card and drop the cache. Only between prompts."""
        await self._engine.sleep(level=1)

    async def wake(self) -> None:
        """Undo `sleep`."""
        await self._engine.wake_up()

    async def aclose(self) -> None:
        """End the process that holds the weights."""
        self._engine.shutdown()  # from this thread: it ends the task that listens to that process first

    async def _ask(self, prompt: Prompt, thought_tokens: int) -> VlmAnswer:
        text = chat_text(self.processor, prompt, bool(thought_tokens))
        tokens, media = encoder(self.tokenizer)(text), _media(prompt)
        if not thought_tokens:
            return await self._answer(tokens, media)
        end = encoder(self.tokenizer)(end_of_turn(text))
        thought, preprocess_ms, compute_ms = await self._think(tokens, media, thought_tokens, len(end) + 1)
        answer = await self._answer([*tokens, *thought, *end], media)
        return replace(
            answer,
            thought=self.tokenizer.decode(thought, skip_special_tokens=True).strip(),
            tokens=len(thought) + len(end) + 1,
            preprocess_ms=answer.preprocess_ms + preprocess_ms,
            compute_ms=answer.compute_ms + compute_ms,
        )

    async def _answer(self, tokens: list[int], media: dict[str, Any]) -> VlmAnswer:
        """P(YES) from the next token's log-probabilities, which are the model's own: taken before sampling."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        asked = [*self.yes, *self.no]
        params = SamplingParams(
            max_tokens=1, logprob_token_ids=asked, temperature=0.0, detokenize=False,
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
        """A thought, and the milliseconds it took. after: tokens that must still fit the context behind it."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        prompt, preprocess_ms = await self._render(tokens, media)
        room = self._context_tokens - len(prompt["prompt_token_ids"]) - after
        if room < 1:
            raise ModelError(
                f"a prompt of {len(prompt['prompt_token_ids'])} tokens leaves no room for a thought: raise "
                f"language.context_tokens above {self._context_tokens}, or lower language.max_pixels"
            )
        params = SamplingParams(
            max_tokens=min(most, room), stop_token_ids=self._ends, temperature=0.0, detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        output, compute_ms = await self._generate(prompt, params)
        thought = list(output.token_ids)
        if thought and thought[-1] in self._ends:
            thought.pop()
        return thought, preprocess_ms, compute_ms

    async def _render(self, tokens: list[int], media: dict[str, Any]) -> tuple[Any, float]:
        """The prompt with its pictures as the engine takes it, and the milliseconds it took. Raises ModelError."""
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
        """What was written, and the milliseconds it took. Raises ModelError for a prompt that the engine refuses."""
        began = time.perf_counter()
        with self._silence.broken_by_an_answer():
            try:
                ended = [output async for output in self._engine.generate(prompt, params, uuid.uuid4().hex)]
            except ValueError as error:
                raise ModelError(f"vLLM refuses a prompt: {error}; see language.context_tokens") from error
        return ended[-1].outputs[0], 1000 * (time.perf_counter() - began)


class _Silence:
    """For how long an engine has had work and answered nothing. Callers give up long before, and must not reset it."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._working = 0
        self._since_s = 0.0  # that it has had work, or that it answered last
        self._before_s = 0.0  # of silent work that ended in cancellation

    @contextmanager
    def broken_by_an_answer(self) -> Iterator[None]:
        """Around a call. To be refused is an answer too; to be cancelled is none."""
        if not self._working:
            self._since_s = time.monotonic()
        self._working += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if self._working == 1:
                self._before_s += time.monotonic() - self._since_s
            raise
        except BaseException:
            self._answered()
            raise
        else:
            self._answered()
        finally:
            self._working -= 1

    def check(self) -> None:
        """Raises RuntimeError when the silence has lasted too long."""
        silent_s = self._before_s + (time.monotonic() - self._since_s if self._working else 0.0)
        if silent_s > self._most_s:
            raise RuntimeError(f"vLLM has had work for {silent_s:.0f} s and answered nothing")

    def _answered(self) -> None:
        self._before_s, self._since_s = 0.0, time.monotonic()


def _arguments(engine: EngineSpec, processor: Any, photos: bool, clips: bool, concurrency: int) -> dict[str, Any]:
    """vLLM's engine arguments for an engine of a profile. Raises ConfigError."""
    extra, settings = engine.vllm.arguments, engine.vllm
    if taken := sorted(set(extra) & set(OURS)):
        raise ConfigError(f"vllm.arguments holds {taken[0]}, which the profile sets elsewhere; take it out")
    cache_gib = settings.kv_cache_gib
    if cache_gib is None and engine.device == "cpu" and settings.gpu_memory_utilization is None:
        cache_gib = CPU_CACHE_GIB
    share = settings.gpu_memory_utilization
    if cache_gib is not None:  # the share then only says how much of the card must be free at the start
        share = 0.01
    return {
        "model": engine.model,
        "revision": engine.revision,
        "trust_remote_code": engine.trust_remote_code,
        "dtype": engine.dtype,
        # A checkpoint that is quantised says so itself; fp8 of one that is not is made on load.
        "quantization": "fp8" if engine.quantization == "fp8" and not _is_quantised(engine) else None,
        "max_model_len": engine.language.context_tokens,
        "max_num_seqs": concurrency,
        "limit_mm_per_prompt": {"image": int(photos), "video": int(clips)},
        "hf_overrides": VllmNames(processor.tokenizer),
        "mm_processor_kwargs": _pixels(engine, processor, clips),
        "gpu_memory_utilization": share,
        "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * GIB),
        "enforce_eager": settings.enforce_eager,
        "enable_sleep_mode": engine.turns is not None,
        "enable_prefix_caching": True,
        "enable_log_requests": False,
        "disable_log_stats": True,
        **extra,
    }


def _pixels(engine: EngineSpec, processor: Any, clips: bool) -> dict[str, Any]:
    """Caps on pixels as the processor takes them: of an image, and of a clip to what the context has room for.

    Without the second vLLM would set memory aside for clips of many times that length.
    """
    caps: dict[str, Any] = {}
    if (most := engine.language.max_pixels) is not None:
        size = dict(processor.image_processor.size)
        if "longest_edge" not in size:
            raise ModelError(
                "This model's image processor has a fixed size: take language.max_pixels out of the engine."
            )
        caps["images_kwargs"] = {"size": _capped(size, most)}
    frames = processor.video_processor
    if clips and "longest_edge" in dict(frames.size):  # of Qwen3-VL: pixels of all frames together
        a_token = (frames.patch_size * frames.merge_size) ** 2 * frames.temporal_patch_size
        most = min(dict(frames.size)["longest_edge"], engine.language.context_tokens * a_token)
        caps["videos_kwargs"] = {"size": _capped(dict(frames.size), most)}
    return caps


def _capped(size: dict[str, Any], most: int) -> dict[str, int]:
    return {"shortest_edge": min(size.get("shortest_edge") or most, most), "longest_edge": most}


def _is_quantised(engine: EngineSpec) -> bool:
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


def _compute_with(threads: int) -> None:
    """Threads of the engine's own process on a CPU, tied to no core: engines beside one another would take the same."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = str(threads)
