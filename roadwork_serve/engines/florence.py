"""Florence-2 reads lines of text and says where they stand (arXiv 2311.06242, task <OCR_WITH_REGION>)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Florence2ForConditionalGeneration, Florence2Processor, LogitsProcessor

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.engines.loading import load_pretrained, load_processor
from roadwork_serve.engines.ocr import OcrLine

TASK = "<OCR_WITH_REGION>"  # the whole prompt: the processor makes a sentence of it
MOST_TOKENS = 384  # eight of them place a line; the pages of a street scene have few lines


class Florence2:
    """Reads pictures in one batch, greedily. Raises ModelError when the checkpoint is no Florence-2 or cannot be read.

    max_tokens: what is written of a picture at most; lines beyond are lost.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int = 1,
        max_tokens: int = MOST_TOKENS,
        revision: str | None = None,
        trust_remote_code: bool = False,
        gpu_memory_gib: float | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = load_pretrained(
            Florence2ForConditionalGeneration,
            model,
            dtype=dtype,
            device=device,
            threads=threads,
            revision=revision,
            trust_remote_code=trust_remote_code,
            gpu_memory_gib=gpu_memory_gib,
        )
        self.processor: Any = load_processor(
            Florence2Processor, model, revision=revision, trust_remote_code=trust_remote_code
        )
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def read(self, images: Sequence[Image.Image]) -> list[list[OcrLine]]:
        """The lines on each RGB picture, in the order in which the model reads them."""
        if not images:
            return []
        inputs = self.processor(text=[TASK] * len(images), images=list(images), return_tensors="pt").to(self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        sureness = _Sureness()
        written = self.model.generate(
            **inputs, max_new_tokens=self.max_tokens, num_beams=1, do_sample=False, logits_processor=[sureness]
        )
        told = self.processor.batch_decode(written, skip_special_tokens=False)
        sure = sureness.of(written, self.model.generation_config.pad_token_id)
        return [self.lines(text, image.size, p) for text, image, p in zip(told, images, sure, strict=True)]

    def lines(self, text: str, size: tuple[int, int], confidence: float) -> list[OcrLine]:
        """What the model wrote of a picture of this size as lines; the model gives no confidence a line."""
        found = self.processor.post_process_generation(text=text, task=TASK, image_size=size)[TASK]
        lines = []
        for label, quad in zip(found["labels"], found["quad_boxes"], strict=True):
            words = label.replace("<s>", "").replace("</s>", "").replace("<pad>", "").strip()
            if words:
                lines.append(OcrLine(words, confidence, np.asarray(quad, np.float32).reshape(4, 2)))
        return lines


class _Sureness(LogitsProcessor):
    """Follows a greedy generation and keeps how likely each token was: the scores of the whole vocabulary are large.

    Raises GivenUp before the next token when nobody waits any more.
    """

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        stop_if_cancelled()
        self.steps.append(torch.log_softmax(scores.float(), dim=-1).amax(-1))
        return scores

    def of(self, written: Tensor, padding: int) -> list[float]:
        """Of each picture, the geometric mean of the probabilities of what was written about it."""
        likely = torch.stack(self.steps, dim=1)
        counted = written[:, -likely.shape[1] :] != padding
        return ((likely * counted).sum(1) / counted.sum(1).clamp(min=1)).exp().tolist()
