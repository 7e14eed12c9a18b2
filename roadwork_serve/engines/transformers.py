"""Runs checkpoints with transformers, from a folder or a hub id, on CPU or GPU: P(YES) from pictures and a question."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, StoppingCriteria

from roadwork_serve.cancellable_thread import CancellableThread, stop_if_cancelled
from roadwork_serve.engines.chat import chat_text, encoder, end_of_turn, ends_of_thought, metadata
from roadwork_serve.engines.loading import load_pretrained, load_processor
from roadwork_serve.engines.vlm import NO, YES, Prompt, VlmAnswer, from_logprobs, spellings
from roadwork_serve.errors import ModelError


def embed_patches_by_matmul(model: nn.Module) -> None:
    """Run 3-D convolutions whose stride is their kernel as the matrix products they are.

    Qwen-VL's patch embedding is one. PyTorch's Conv3d is many times slower on a CPU (and slow on GPUs: vLLM does
    the same); the weights and the results stay what they were.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == module.stride and module.padding == (0, 0, 0):
            module.forward = partial(_patch_product, module)  # type: ignore[method-assign]


def _patch_product(conv: nn.Conv3d, patches: Tensor) -> Tensor:
    """[n, channels, *kernel] -> [n, out, 1, 1, 1]."""
    return F.linear(patches.flatten(1), conv.weight.flatten(1), conv.bias)[:, :, None, None, None]


class VisionLanguageEngine:
    """Qwen3-VL, Molmo 2 and others of transformers' image-text-to-text classes.

    max_pixels: caps what the image processor makes of an image, where it knows such a cap (Qwen3-VL does).
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int = 1,
        max_pixels: int | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        gpu_memory_gib: float | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = load_pretrained(
            AutoModelForImageTextToText,
            model,
            dtype=dtype,
            device=device,
            threads=threads,
            trust_remote_code=trust_remote_code,
            revision=revision,
            gpu_memory_gib=gpu_memory_gib,
        )
        embed_patches_by_matmul(self.model)
        self.processor = load_processor(AutoProcessor, model, trust_remote_code=trust_remote_code, revision=revision)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if max_pixels is not None:
            self._cap_pixels(max_pixels)
        encode = encoder(self.tokenizer)
        self.yes, self.no = spellings(encode, YES), spellings(encode, NO)
        self._worker = CancellableThread("model")

    async def ask(self, prompts: Sequence[Prompt], thought_tokens: int = 0) -> list[VlmAnswer]:
        """See `LanguageEngine`."""
        return await self._worker.run(self._ask, prompts, thought_tokens)

    def _ask(self, prompts: Sequence[Prompt], thought_tokens: int) -> list[VlmAnswer]:
        began = time.perf_counter()
        inputs = self.encode(prompts, thinking=bool(thought_tokens))
        encoded = time.perf_counter()
        stop_if_cancelled()
        answers = self.think(inputs, thought_tokens) if thought_tokens else self.answer(inputs)
        times = {"preprocess_ms": 1000 * (encoded - began), "compute_ms": 1000 * (time.perf_counter() - encoded)}
        return [replace(answer, **times) for answer in answers]

    async def check(self) -> None:
        """See `LanguageEngine`: the model runs in this process."""

    async def sleep(self) -> None:
        """See `LanguageEngine`: the weights go to the computer's own memory."""
        await self._worker.run(self._move, torch.device("cpu"))

    async def wake(self) -> None:
        """See `LanguageEngine`."""
        await self._worker.run(self._move, self.device)

    def _move(self, device: torch.device) -> None:
        self.model.to(device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    async def aclose(self) -> None:
        """Wait for the call that runs and end the thread."""
        await self._worker.aclose()

    def _cap_pixels(self, max_pixels: int) -> None:
        size = self.processor.image_processor.size
        if "longest_edge" not in dict(size):
            raise ModelError(
                "This model's image processor has a fixed size: take language.max_pixels out of the engine."
            )
        least = min(dict(size).get("shortest_edge") or max_pixels, max_pixels)
        self.processor.image_processor.size = type(size)(shortest_edge=least, longest_edge=max_pixels)

    def encode(self, prompts: Sequence[Prompt], thinking: bool = False) -> dict[str, Tensor]:
        """The prompts through the model's own chat template, image or clip first, padded on the left."""
        texts = [chat_text(self.processor, prompt, thinking) for prompt in prompts]
        clip = bool(prompts[0].timestamps_s)
        if clip:
            media = {
                "videos": [list(p.images) for p in prompts],
                "video_metadata": [metadata(p) for p in prompts],
                "do_sample_frames": False,
            }
        else:
            media = {"images": [p.images[0] for p in prompts]}
        inputs = self.processor(text=texts, padding=True, return_tensors="pt", **media)
        return {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }

    @torch.inference_mode()
    def answer(self, inputs: dict[str, Tensor]) -> list[VlmAnswer]:
        """One forward pass; P(YES) is read from the next token."""
        logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return [self._read(row) for row in logits.float()]

    @torch.inference_mode()
    def think(self, inputs: dict[str, Tensor], thought_tokens: int) -> list[VlmAnswer]:
        """Let the model think greedily, end the thought when it has spent its tokens, then read P(YES).

        Raises GivenUp before the next token when nobody waits any more.
        """
        start = inputs["input_ids"].shape[1]
        ends = ends_of_thought(self.tokenizer, self.model.generation_config.eos_token_id)
        end = end_of_turn(self.tokenizer.decode(inputs["input_ids"][0, -4:]))  # of every row: padding is on the left
        pen = _Thinking(ends, encoder(self.tokenizer)(end), start, thought_tokens)
        written = self.model.generate(
            **inputs,
            max_new_tokens=thought_tokens + len(pen.closing) + 2,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.model.config.get_text_config().vocab_size,  # never written: the pen decides when to stop
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=[pen],
            stopping_criteria=[pen.stop],
        )
        answers = []
        for row, final, length in zip(written, *pen.result(), strict=True):
            read = self._read(final)
            thought = self.tokenizer.decode(row[start : start + length], skip_special_tokens=True).strip()
            answers.append(replace(read, thought=thought, tokens=length + len(pen.closing) + 1))
        return answers

    def _read(self, logits: Tensor) -> VlmAnswer:
        logprobs = torch.log_softmax(logits, dim=-1)
        return from_logprobs(logprobs[self.yes].tolist(), logprobs[self.no].tolist())


class _Thinking(LogitsProcessor):
    """Follows a greedy generation, closes thoughts that run out of tokens, and keeps the logits of the answer."""

    def __init__(self, ends: frozenset[int], end_of_turn: list[int], start: int, budget: int) -> None:
        self.ends, self.closing, self.start, self.budget = ends, end_of_turn, start, budget
        self.lengths: list[int | None] = []
        self.finals: list[Tensor | None] = []
        self.stop = _AllAnswered(self)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        stop_if_cancelled()
        written = input_ids.shape[1] - self.start
        if not self.finals:
            self.lengths, self.finals = [None] * len(scores), [None] * len(scores)
        scores = scores.clone()
        for i, row in enumerate(scores):
            if self.lengths[i] is None and (written >= self.budget or int(row.argmax()) in self.ends):
                self.lengths[i] = written
            thought = self.lengths[i]
            if thought is None:
                continue
            due = written - thought
            if due < len(self.closing):
                forced = self.closing[due]
                row.fill_(-math.inf)
                row[forced] = 0.0
            elif due == len(self.closing):
                self.finals[i] = row.float().clone()
        return scores

    def result(self) -> tuple[list[Tensor], list[int]]:
        """Logits of every row's answer, and how many tokens its thought has."""
        return [f for f in self.finals if f is not None], [n for n in self.lengths if n is not None]


class _AllAnswered(StoppingCriteria):
    def __init__(self, pen: _Thinking) -> None:
        self.pen = pen

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        done = all(final is not None for final in self.pen.finals)
        return torch.full((len(input_ids),), done, dtype=torch.bool, device=input_ids.device)
