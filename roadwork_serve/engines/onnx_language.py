"""Small vision language models under onnxruntime on the CPU, without PyTorch.

`roadwork export` writes two graphs beside the weights of a Qwen3-VL (photos) or Molmo 2 (clips). They read the weights
from the same file as transformers, and give the same answers. A prompt is computed by itself: on one thread, larger
batches save nothing.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cancellable_thread import CancellableThread, stop_if_cancelled
from roadwork_serve.engines.chat import chat_text, encoder, end_of_reasoning, reasoning_stop_tokens
from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.language_inputs import EncodedPrompt, PromptEncoder, rotary
from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.engines.molmo_inputs import MolmoInputs
from roadwork_serve.engines.onnx import open_graph
from roadwork_serve.engines.processor_files import ProcessorFiles
from roadwork_serve.engines.qwen_inputs import QwenInputs
from roadwork_serve.engines.vlm import NO, YES, Prompt, VlmAnswer, from_logprobs, spellings
from roadwork_serve.errors import ModelError

VISION, DECODER, WEIGHTS = "vision.onnx", "decoder.onnx", "model.safetensors"
_FAMILIES: dict[str, type[PromptEncoder]] = {"qwen3_vl": QwenInputs, "molmo2": MolmoInputs}
_HIDDEN = np.float32(-1e9)  # in a mask: effectively no attention
_CALLS = 2  # at a time, so that an answer need not wait for the reasoning of a stage that shares the engine

Floats = NDArray[np.float32]


class OnnxLanguageEngine:
    """Qwen3-VL for photos, or Molmo 2 for clips, from a folder with the two graphs."""

    def __init__(
        self,
        folder: str,
        options: LoadOptions = DEFAULTS,
        *,
        max_pixels: int | None = None,
        question_first: bool = False,
    ) -> None:
        """Open the graphs.

        Args:
            folder: Folder with the weights, the processor's files and the graphs.
            options: Settings for loading.
            max_pixels: Limit for the images, which are scaled down to it.
            question_first: Put the question before the image or clip.

        Raises:
            ModelError: The folder lacks a file, holds another model, or the options ask for a GPU or half precision.
        """
        if options.device != "cpu" or options.dtype not in ("float32", "auto"):
            raise ModelError(f"{folder} runs on the CPU in float32 only: set device: cpu, and remove dtype")
        root = Path(folder)
        if absent := [name for name in (VISION, DECODER, WEIGHTS) if not (root / name).is_file()]:
            raise ModelError(
                f"{folder} has no {' and no '.join(absent)}: write the graphs with `roadwork export --format graphs "
                f"--model {folder}`, or set backend: transformers"
            )
        try:
            self.processor = ProcessorFiles(root)
            config = json.loads((root / "config.json").read_text(encoding="utf-8"))
            family = _FAMILIES.get(config.get("model_type"))
            if family is None:
                raise ModelError(
                    f"backend onnx cannot run a {config.get('model_type')}, only {' and '.join(_FAMILIES)}: set "
                    "backend: transformers"
                )
            self._inputs = family(config, self.processor, max_pixels)
            text = config["text_config"]
            self._cache = (text["num_hidden_layers"], 2, text["num_key_value_heads"], 0, text["head_dim"])
            self._theta = float(text["rope_parameters"]["rope_theta"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"the files of {folder} cannot be read: {error!r}. Copy the folder again") from error
        self.question_first = question_first
        tokenizer = self.processor.tokenizer
        self.yes, self.no = spellings(encoder(tokenizer), YES), spellings(encoder(tokenizer), NO)
        self._ends = reasoning_stop_tokens(tokenizer, self.processor.end_tokens)
        self._vision, self._decoder = (open_graph(root, name, options.threads) for name in (VISION, DECODER))
        self._worker = CancellableThread("model", threads=_CALLS)

    async def ask(self, prompts: Sequence[Prompt], reasoning_tokens: int = 0) -> list[VlmAnswer]:
        """See `LanguageEngine`."""
        return await self._worker.run(self._ask, prompts, reasoning_tokens)

    def _ask(self, prompts: Sequence[Prompt], reasoning_tokens: int) -> list[VlmAnswer]:
        answers, prepared_s, began = [], 0.0, time.perf_counter()
        for prompt in prompts:
            stop_if_cancelled()
            at = time.perf_counter()
            text = chat_text(self.processor, prompt, bool(reasoning_tokens), self.question_first)
            encoded = self._inputs.encode(text, prompt)
            prepared_s += time.perf_counter() - at
            with flush_denormals():
                answers.append(
                    self._think(encoded, text, reasoning_tokens)
                    if reasoning_tokens
                    else self._read(_Reading(self, encoded).logits)
                )
        times = {
            "preprocess_ms": 1000 * prepared_s,
            "compute_ms": 1000 * (time.perf_counter() - began - prepared_s),
        }
        return [replace(answer, **times) for answer in answers]

    async def check(self) -> None:
        """See `LanguageEngine`. Nothing to check: the model runs in this process."""

    async def sleep(self) -> None:
        """See `LanguageEngine`. Nothing to do: the weights are in main memory."""

    async def wake(self) -> None:
        """See `LanguageEngine`. Nothing to do."""

    async def aclose(self) -> None:
        """Wait for the running calls and end the threads."""
        await self._worker.aclose()

    def _think(self, encoded: EncodedPrompt, text: str, budget: int) -> VlmAnswer:
        """Write reasoning, end it when it ends or the token budget is spent, then compute P(YES)."""
        reading = _Reading(self, encoded)
        written: list[int] = []
        while len(written) < budget and (token := int(reading.logits.argmax())) not in self._ends:
            stop_if_cancelled()
            written.append(token)
            reading.read([token])
        closing = self.processor.tokenizer.encode(end_of_reasoning(text), add_special_tokens=False)
        reading.read(closing)
        reasoning = self.processor.tokenizer.decode(written, skip_special_tokens=True).strip()
        answer = self._read(reading.logits)
        return replace(answer, reasoning=reasoning, tokens=len(written) + len(closing) + 1)

    def _read(self, logits: Floats) -> VlmAnswer:
        logprobs = logits - np.logaddexp.reduce(logits.astype(np.float64))
        return from_logprobs(logprobs[self.yes].tolist(), logprobs[self.no].tolist())

    def see(self, inputs: dict[str, Any]) -> Floats:
        """Return the image tokens of a prompt, float32 [parts, tokens, width]."""
        (tokens,) = self._vision.run(None, inputs)
        return tokens

    def decode(
        self, ids: Sequence[int], images: Floats, positions: NDArray[np.int64], mask: Floats, past: Floats | None
    ) -> tuple[Floats, Floats]:
        """Return the logits [vocabulary] of the token after these, and the cache with them."""
        cos, sin = rotary(positions, self._inputs.axes, self._theta)
        logits, present = self._decoder.run(
            None,
            {
                "ids": np.array(ids, np.int64),
                "images": images,
                "cos": cos,
                "sin": sin,
                "mask": mask,
                "past": np.zeros(self._cache, np.float32) if past is None else past,
            },
        )
        return logits, present


class _Reading:
    """One prompt as it is read: the cache of what has been read, and the logits of what comes next."""

    def __init__(self, engine: OnnxLanguageEngine, encoded: EncodedPrompt) -> None:
        self._engine, self._next = engine, int(encoded.positions.max()) + 1
        self._images = engine.see(encoded.vision)
        order = np.arange(len(encoded.ids))
        seen = (order[None] <= order[:, None]) | (encoded.together[None] & encoded.together[:, None])
        mask = np.where(seen, np.float32(0), _HIDDEN)
        self.logits, self._past = engine.decode(encoded.ids, self._images, encoded.positions, mask, None)
        self._images = self._images[:, :0]

    def read(self, ids: Sequence[int]) -> None:
        """Read further tokens of text."""
        before, count = self._past.shape[3], len(ids)
        order = np.arange(before + count)
        mask = np.where(order[None] <= order[before:, None], np.float32(0), _HIDDEN)
        positions = np.broadcast_to(self._next + np.arange(count), (3, count))
        self.logits, self._past = self._engine.decode(ids, self._images, positions, mask, self._past)
        self._next += count
