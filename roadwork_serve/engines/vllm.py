"""Vision language models under vLLM, with continuous batching, prefix caching, and FP8 or 4-bit weights.

Experimental on a GPU, not yet run on hardware; tested with vLLM on a CPU.
"""

# vLLM is not in every environment:
# pyright: reportMissingImports=false

import asyncio
import math
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from roadwork_serve.engines.chat import chat_text, encoder, end_of_reasoning, metadata, reasoning_stop_tokens
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.quantization import choose_model, compute_capability, weights_for
from roadwork_serve.engines.vllm_arguments import engine_arguments
from roadwork_serve.engines.vllm_plugin import check_registered
from roadwork_serve.engines.vlm import MAX_LOGIT, NO, YES, Prompt, VlmAnswer, from_logprobs, gather_answers, spellings
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec

#: Priorities of requests; vLLM runs lower numbers first. A request with reasoning comes before photos that wait: it
#: needs one more step for each token, and would miss its deadline behind them.
REASONING, IMMEDIATE = 0, 1


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
        from roadwork_serve.engines.loading import load_processor, read_config

        capability = compute_capability() if engine.device == "cuda" else None
        model = choose_model(engine, capability)
        options = LoadOptions.of(engine if model == engine.model else engine.model_copy(update={"revision": None}))
        self.processor = load_processor(AutoProcessor, model, options)
        self.tokenizer = self.processor.tokenizer
        encode = encoder(self.tokenizer)
        self.yes, self.no = spellings(encode, YES), spellings(encode, NO)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # disable telemetry
        if engine.device == "cpu":
            _set_cpu_threads(engine.threads)
        self._language = engine.language
        self._score_head = engine.vllm.score_head
        self._watchdog = _Watchdog(stuck_s)
        try:
            config = read_config(model, options)
            weights = weights_for(engine, model, config, capability)
            if config.get("model_type") == "molmo2":
                check_registered()
            arguments = engine_arguments(engine, weights, self.processor, photos, clips, concurrency)
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
        text = chat_text(self.processor, prompt, bool(reasoning_tokens), self._language.question_first)
        tokens, media = encoder(self.tokenizer)(text), _media(prompt)
        if self._score_head:
            return await self._score(tokens, media, reasoning_tokens)
        if not reasoning_tokens:
            return await self._answer(tokens, media, IMMEDIATE)
        end = encoder(self.tokenizer)(end_of_reasoning(text))
        reasoning, preprocess_ms, compute_ms = await self._think(tokens, media, reasoning_tokens, len(end) + 1)
        answer = await self._answer([*tokens, *reasoning, *end], media, REASONING)
        return replace(
            answer,
            reasoning=self.tokenizer.decode(reasoning, skip_special_tokens=True).strip(),
            tokens=len(reasoning) + len(end) + 1,
            preprocess_ms=answer.preprocess_ms + preprocess_ms,
            compute_ms=answer.compute_ms + compute_ms,
        )

    async def _score(self, tokens: list[int], media: dict[str, Any], reasoning_tokens: int) -> VlmAnswer:
        """Read the logit of YES minus NO from the score head.

        Raises:
            ModelError: Reasoning is wanted.
        """
        from vllm.pooling_params import PoolingParams

        if reasoning_tokens:
            raise ModelError("an engine with vllm.score_head generates no reasoning: remove it, or options.thinking")
        prompt, preprocess_ms = await self._render(tokens, media)
        params = PoolingParams(task="classify", use_activation=False)
        output, compute_ms = await self._run(self._engine.encode, prompt, params, IMMEDIATE)
        logit = float(output.outputs.data[0])
        if math.isnan(logit):
            raise ModelError("the model returns NaN: set dtype: bfloat16, or float32 on a CPU")
        return VlmAnswer(
            min(MAX_LOGIT, max(-MAX_LOGIT, logit)), None, preprocess_ms=preprocess_ms, compute_ms=compute_ms
        )

    async def _answer(self, tokens: list[int], media: dict[str, Any], priority: int) -> VlmAnswer:
        """Compute P(YES) from the log-probabilities of the next token, before sampling parameters apply."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        token_ids = [*self.yes, *self.no]
        params = SamplingParams(
            max_tokens=1, logprob_token_ids=token_ids, temperature=0.0, detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        prompt, preprocess_ms = await self._render(tokens, media)
        output, compute_ms = await self._run(self._engine.generate, prompt, params, priority)
        found = output.outputs[0].logprobs[0]
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
        room = self._language.context_tokens - len(prompt["prompt_token_ids"]) - after
        if room < 1:
            raise ModelError(
                f"a prompt of {len(prompt['prompt_token_ids'])} tokens leaves no room for reasoning: raise "
                f"language.context_tokens above {self._language.context_tokens}, or lower language.max_pixels"
            )
        params = SamplingParams(
            max_tokens=min(most, room), stop_token_ids=self._ends, detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY, **self._language.sampling.model_dump(),
        )  # fmt: skip
        output, compute_ms = await self._run(self._engine.generate, prompt, params, REASONING)
        reasoning = list(output.outputs[0].token_ids)
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

    async def _run(
        self, call: Callable[..., AsyncIterator[Any]], prompt: Any, params: Any, priority: int
    ) -> tuple[Any, float]:
        """Return the last output of a request and the time in milliseconds.

        Raises:
            ModelError: vLLM rejects the prompt.
        """
        began = time.perf_counter()
        with self._watchdog.watch():
            try:
                outputs = [output async for output in call(prompt, params, uuid.uuid4().hex, priority=priority)]
            except ValueError as error:
                raise ModelError(f"vLLM rejects a prompt: {error}; see language.context_tokens") from error
        return outputs[-1], 1000 * (time.perf_counter() - began)


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


def _media(prompt: Prompt) -> dict[str, Any]:
    if not prompt.timestamps_s:
        return {"image": prompt.images[0]}
    frames = np.stack([np.asarray(image) for image in prompt.images])
    return {"video": [(frames, metadata(prompt) | {"do_sample_frames": False})]}


def _set_cpu_threads(threads: int) -> None:
    """Set the threads of vLLM's process on a CPU, without pinning, since several engines would pin the same cores."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = str(threads)
