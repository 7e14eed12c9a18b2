"""Vision language models under transformers, on CPU or GPU.

On a GPU experimental, not yet run at production size.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, StoppingCriteria

from roadwork_serve.cancellable_thread import CancellableThread, stop_if_cancelled
from roadwork_serve.engines.chat import chat_text, encoder, end_of_reasoning, metadata, reasoning_stop_tokens
from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.engines.loading import load_pretrained, load_processor
from roadwork_serve.engines.sampling import TokenSampler
from roadwork_serve.engines.vlm import NO, YES, Prompt, VlmAnswer, from_logprobs, spellings
from roadwork_serve.errors import ModelError

if TYPE_CHECKING:  # the benchmark of a bare GPU has no pydantic
    from roadwork_serve.profiles.engine_spec import SamplingSettings


def embed_patches_by_matmul(model: nn.Module) -> None:
    """Replace 3-D convolutions whose stride equals their kernel by matrix products.

    The patch embedding of Qwen-VL is one. PyTorch's Conv3d is many times slower on a CPU, and slow on GPUs (vLLM does
    the same). Weights and results do not change.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == module.stride and module.padding == (0, 0, 0):
            module.forward = partial(_patch_product, module)  # type: ignore[method-assign]


def _patch_product(conv: nn.Conv3d, patches: Tensor) -> Tensor:
    """Map [n, channels, *kernel] to [n, out, 1, 1, 1]."""
    return F.linear(patches.flatten(1), conv.weight.flatten(1), conv.bias)[:, :, None, None, None]


def compute_rows_in_float32(model: nn.Module, tokens: Sequence[int]) -> None:
    """Make the model's output layer return float32 logits, those of these tokens from a product in float32.

    In bfloat16 the logits of an answer, 16 to 32, are rounded to multiples of 1/8.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if head.weight.dtype == torch.float32:
        return

    def replace_rows(head: Any, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        rows = torch.tensor(tokens, device=logits.device)
        bias = None if head.bias is None else head.bias[rows].float()
        exact = F.linear(inputs[0].float(), head.weight[rows].float(), bias)
        return logits.float().index_copy(-1, rows, exact)

    head.register_forward_hook(replace_rows)


class VisionLanguageEngine:
    """Qwen3-VL, Molmo 2 and other image-text-to-text models of transformers."""

    def __init__(
        self,
        model: str,
        options: LoadOptions = DEFAULTS,
        *,
        max_pixels: int | None = None,
        question_first: bool = False,
        sampling: "SamplingSettings | None" = None,
    ) -> None:
        """Load the model.

        Args:
            model: Folder or hub id.
            options: Settings for loading the checkpoint.
            max_pixels: Limit for the image processor, which scales larger images down.
            question_first: Put the question before the image or clip.
            sampling: How the tokens of the reasoning are chosen; by default the most likely ones.

        Raises:
            ModelError: The model cannot be loaded, or its image processor has no such limit.
        """
        self.device = torch.device(options.device)
        self.question_first, self.sampling = question_first, sampling
        self.model = load_pretrained(AutoModelForImageTextToText, model, options)
        embed_patches_by_matmul(self.model)
        self.processor = load_processor(AutoProcessor, model, options)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if max_pixels is not None:
            self._cap_pixels(max_pixels)
        encode = encoder(self.tokenizer)
        self.yes, self.no = spellings(encode, YES), spellings(encode, NO)
        compute_rows_in_float32(self.model, [*self.yes, *self.no])
        self._worker = CancellableThread("model")

    async def ask(self, prompts: Sequence[Prompt], reasoning_tokens: int = 0) -> list[VlmAnswer]:
        """See `LanguageEngine`."""
        return await self._worker.run(self._ask, prompts, reasoning_tokens)

    def _ask(self, prompts: Sequence[Prompt], reasoning_tokens: int) -> list[VlmAnswer]:
        began = time.perf_counter()
        inputs = self.encode(prompts, thinking=bool(reasoning_tokens))
        encoded = time.perf_counter()
        stop_if_cancelled()
        answers = self.think(inputs, reasoning_tokens) if reasoning_tokens else self.answer(inputs)
        times = {"preprocess_ms": 1000 * (encoded - began), "compute_ms": 1000 * (time.perf_counter() - encoded)}
        return [replace(answer, **times) for answer in answers]

    async def check(self) -> None:
        """See `LanguageEngine`. Nothing to check: the model runs in this process."""

    async def sleep(self) -> None:
        """See `LanguageEngine`. Moves the weights to main memory."""
        await self._worker.run(self._move, torch.device("cpu"))

    async def wake(self) -> None:
        """See `LanguageEngine`."""
        await self._worker.run(self._move, self.device)

    def _move(self, device: torch.device) -> None:
        self.model.to(device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    async def aclose(self) -> None:
        """Wait for the running call and end the thread."""
        await self._worker.aclose()

    def _cap_pixels(self, max_pixels: int) -> None:
        size = self.processor.image_processor.size
        if "longest_edge" not in dict(size):
            raise ModelError(
                "This model's image processor has a fixed size: remove language.max_pixels from the engine."
            )
        smallest = min(dict(size).get("shortest_edge") or max_pixels, max_pixels)
        self.processor.image_processor.size = type(size)(shortest_edge=smallest, longest_edge=max_pixels)

    def encode(self, prompts: Sequence[Prompt], thinking: bool = False) -> dict[str, Tensor]:
        """Apply the model's chat template and pad on the left."""
        texts = [chat_text(self.processor, prompt, thinking, self.question_first) for prompt in prompts]
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
        """Compute P(YES) of the next token in one forward pass."""
        logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return [self._read(row) for row in logits.float()]

    @torch.inference_mode()
    def think(self, inputs: dict[str, Tensor], reasoning_tokens: int) -> list[VlmAnswer]:
        """Generate reasoning, end it when the token budget is spent, then compute P(YES).

        Raises:
            CallCancelledError: The caller has been cancelled; raised before the next token.
        """
        start = inputs["input_ids"].shape[1]
        ends = reasoning_stop_tokens(self.tokenizer, self.model.generation_config.eos_token_id)
        end = end_of_reasoning(
            self.tokenizer.decode(inputs["input_ids"][0, -4:])
        )  # the same in every row: padding is on the left
        controller = _ReasoningController(ends, encoder(self.tokenizer)(end), start, reasoning_tokens, self.sampling)
        written = self.model.generate(
            **inputs,
            max_new_tokens=reasoning_tokens + len(controller.closing) + 2,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.model.config.get_text_config().vocab_size,  # never generated: the controller stops
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=[controller],
            stopping_criteria=[controller.stop],
        )
        answers = []
        for row, final, length in zip(written, *controller.result(), strict=True):
            answer = self._read(final)
            reasoning = self.tokenizer.decode(row[start : start + length], skip_special_tokens=True).strip()
            answers.append(replace(answer, reasoning=reasoning, tokens=length + len(controller.closing) + 1))
        return answers

    def _read(self, logits: Tensor) -> VlmAnswer:
        logprobs = torch.log_softmax(logits, dim=-1)
        return from_logprobs(logprobs[self.yes].tolist(), logprobs[self.no].tolist())


class _ReasoningController(LogitsProcessor):
    """Chooses the tokens of each row, ends its reasoning, and records the logits of its answer.

    It is used with greedy decoding: the token with the largest returned score is the next one.
    """

    def __init__(
        self,
        ends: frozenset[int],
        end_of_turn: list[int],
        start: int,
        budget: int,
        sampling: "SamplingSettings | None" = None,
    ) -> None:
        self.ends, self.closing, self.start, self.budget = ends, end_of_turn, start, budget
        self.sampling = sampling
        self.samplers: list[TokenSampler] = []
        self.lengths: list[int | None] = []
        self.finals: list[Tensor | None] = []
        self.stop = _AllAnswered(self)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        stop_if_cancelled()
        written = input_ids.shape[1] - self.start
        if not self.finals:
            self.lengths, self.finals = [None] * len(scores), [None] * len(scores)
            if self.sampling is not None and self.sampling.temperature > 0:
                self.samplers = [TokenSampler(self.sampling, scores.device) for _ in scores]
        scores = scores.clone()
        for i, row in enumerate(scores):
            if self.samplers and self.lengths[i] is None:
                row.copy_(self.samplers[i](row, input_ids[i, self.start :]))
            if self.lengths[i] is None and (written >= self.budget or int(row.argmax()) in self.ends):
                self.lengths[i] = written
            length = self.lengths[i]
            if length is None:
                continue
            position = written - length
            if position < len(self.closing):
                forced = self.closing[position]
                row.fill_(-math.inf)
                row[forced] = 0.0
            elif position == len(self.closing):
                self.finals[i] = row.float().clone()
        return scores

    def result(self) -> tuple[list[Tensor], list[int]]:
        """Return the logits of each row's answer and the number of its reasoning tokens."""
        return [f for f in self.finals if f is not None], [n for n in self.lengths if n is not None]


class _AllAnswered(StoppingCriteria):
    def __init__(self, controller: _ReasoningController) -> None:
        self.controller = controller

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        done = all(final is not None for final in self.controller.finals)
        return torch.full((len(input_ids),), done, dtype=torch.bool, device=input_ids.device)
