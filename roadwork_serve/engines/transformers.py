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
from transformers.utils.logging import disable_progress_bar

from roadwork_serve.engines.asking import NO, YES, Answer, Prompt, from_logprobs, spellings
from roadwork_serve.errors import ModelError
from roadwork_serve.worker import Worker

END_OF_THOUGHT = "</think>"


def load_pretrained(kind: type[Any], model: str, *, dtype: str, device: str, **more: Any) -> Any:
    """`kind.from_pretrained`, ready for inference. Remote code is never run. Raises ModelError."""
    disable_progress_bar()  # of transformers, on stderr, whoever looks on
    try:
        _check_family(kind, model)
        loaded = kind.from_pretrained(model, dtype=getattr(torch, dtype), trust_remote_code=False, **more)
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        raise ModelError(
            f"{model} cannot be loaded as {kind.__name__}: {e}. Give a folder with config.json and weights, or a hub "
            "id that this machine can reach and is allowed to read."
        ) from e
    return loaded.to(device).eval().requires_grad_(False)


def _check_family(kind: type[Any], model: str) -> None:
    """Raises ModelError for a checkpoint of another family than the class's, before its weights are read."""
    wanted = getattr(kind, "config_class", None)
    if wanted is None:  # a class for any family
        return
    found = wanted.get_config_dict(model)[0].get("model_type")
    if found != wanted.model_type:
        raise ModelError(f"{model} is of the family {found}, and a {wanted.model_type} is wanted: {kind.__name__}")


def load_processor(kind: Any, model: str) -> Any:
    """`kind.from_pretrained`. Remote code is never run. Raises ModelError."""
    try:
        return kind.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as e:
        raise ModelError(f"{model} has no usable processor: {e}. The checkpoint folder is not complete.") from e


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
    ) -> None:
        if device == "cpu":
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.model = load_pretrained(AutoModelForImageTextToText, model, dtype=dtype, device=device)
        embed_patches_by_matmul(self.model)
        self.processor = load_processor(AutoProcessor, model)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if max_pixels is not None:
            self._cap_pixels(max_pixels)
        encode = partial(self.tokenizer.encode, add_special_tokens=False)
        self.yes, self.no = spellings(encode, YES), spellings(encode, NO)
        self._worker = Worker("model")

    async def ask(self, prompts: Sequence[Prompt], thought_tokens: int = 0) -> list[Answer]:
        """See `LanguageEngine`."""
        return await self._worker.run(self._ask, prompts, thought_tokens)

    def _ask(self, prompts: Sequence[Prompt], thought_tokens: int) -> list[Answer]:
        began = time.perf_counter()
        inputs = self.encode(prompts, thinking=bool(thought_tokens))
        encoded = time.perf_counter()
        answers = self.think(inputs, thought_tokens) if thought_tokens else self.answer(inputs)
        times = {"batch_ms": 1000 * (encoded - began), "compute_ms": 1000 * (time.perf_counter() - encoded)}
        return [replace(answer, **times) for answer in answers]

    async def check(self) -> None:
        """See `LanguageEngine`: the model runs in this process."""

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
        clip = bool(prompts[0].timestamps_s)
        kind = "video" if clip else "image"
        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": p.question}]}],
                add_generation_prompt=True,
                tokenize=False,
                **({"enable_thinking": True} if thinking and "enable_thinking" in self.processor.chat_template else {}),
            )
            for p in prompts
        ]
        if clip:
            media = {
                "videos": [list(p.images) for p in prompts],
                "video_metadata": [_metadata(p) for p in prompts],
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
    def answer(self, inputs: dict[str, Tensor]) -> list[Answer]:
        """One forward pass; P(YES) is read from the next token."""
        logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return [self._read(row) for row in logits.float()]

    @torch.inference_mode()
    def think(self, inputs: dict[str, Tensor], thought_tokens: int) -> list[Answer]:
        """Let the model think greedily, end the thought when it has spent its tokens, then read P(YES)."""
        start = inputs["input_ids"].shape[1]
        pen = _Thinking(self._single(END_OF_THOUGHT), self._ends(), self._closing(), start, thought_tokens)
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

    def _single(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        if found is None or found == self.tokenizer.unk_token_id:
            raise ModelError(f"This model has no token {token}: it was not made to think. Set thinking: false.")
        return int(found)

    def _ends(self) -> frozenset[int]:
        named = self.model.generation_config.eos_token_id
        ends = named if isinstance(named, list) else [named]
        return frozenset(i for i in [*ends, self.tokenizer.eos_token_id] if i is not None)

    def _closing(self) -> list[int]:
        """What stands between the end of a thought and the answer, as the family's chat template writes it."""
        return [self._single(END_OF_THOUGHT), *self.tokenizer.encode("\n\n", add_special_tokens=False)]

    def _read(self, logits: Tensor) -> Answer:
        logprobs = torch.log_softmax(logits, dim=-1)
        return from_logprobs(logprobs[self.yes].tolist(), logprobs[self.no].tolist())


class _Thinking(LogitsProcessor):
    """Follows a greedy generation, closes thoughts that run out of tokens, and keeps the logits of the answer."""

    def __init__(self, end: int, ends: frozenset[int], closing: list[int], start: int, budget: int) -> None:
        self.end, self.ends, self.closing, self.start, self.budget = end, ends, closing, start, budget
        self.lengths: list[int | None] = []
        self.finals: list[Tensor | None] = []
        self.stop = _AllAnswered(self)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids.shape[1] - self.start
        if not self.finals:
            self.lengths, self.finals = [None] * len(scores), [None] * len(scores)
        scores = scores.clone()
        for i, row in enumerate(scores):
            if self.lengths[i] is None and (written >= self.budget or int(row.argmax()) in self.ends | {self.end}):
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


def _metadata(prompt: Prompt) -> dict[str, Any]:
    """Timestamps as milliseconds in a make-believe video of 1000 frames a second, which keeps them exact."""
    stamps = [round(1000 * t) for t in prompt.timestamps_s]
    total = stamps[-1] + 1
    return {"fps": 1000.0, "frames_indices": stamps, "total_num_frames": total, "duration": total / 1000}
