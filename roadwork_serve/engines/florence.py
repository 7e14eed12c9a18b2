"""OCR with Florence-2: lines of text and their positions (arXiv 2311.06242, task <OCR_WITH_REGION>)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Florence2ForConditionalGeneration, Florence2Processor, LogitsProcessor

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.engines.loading import load_pretrained, load_processor
from roadwork_serve.engines.ocr import OcrLine

TASK = "<OCR_WITH_REGION>"  # the prompt, which the processor expands to a sentence
MAX_TOKENS = 384  # eight of them encode a position; a street scene has few lines of text


class Florence2:
    """OCR with Florence-2: reads all images in one batch, with greedy decoding."""

    def __init__(self, model: str, options: LoadOptions = DEFAULTS, *, max_tokens: int = MAX_TOKENS) -> None:
        """Load the model.

        Args:
            model: Folder or hub id.
            options: Settings for loading the checkpoint.
            max_tokens: Largest number of tokens generated for an image; lines beyond it are lost.

        Raises:
            ModelError: The checkpoint cannot be loaded, or belongs to another architecture.
        """
        self.device = torch.device(options.device)
        self.model = load_pretrained(Florence2ForConditionalGeneration, model, options)
        self.processor: Any = load_processor(Florence2Processor, model, options)
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def read(self, images: Sequence[Image.Image]) -> list[list[OcrLine]]:
        """Return the lines of text on each RGB image, in the order of the model's output."""
        if not images:
            return []
        inputs = self.processor(text=[TASK] * len(images), images=list(images), return_tensors="pt").to(self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        recorder = _ConfidenceRecorder()
        written = self.model.generate(
            **inputs, max_new_tokens=self.max_tokens, num_beams=1, do_sample=False, logits_processor=[recorder]
        )
        texts = self.processor.batch_decode(written, skip_special_tokens=False)
        confidences = recorder.confidences(written, self.model.generation_config.pad_token_id)
        return [self.lines(text, image.size, p) for text, image, p in zip(texts, images, confidences, strict=True)]

    def lines(self, text: str, size: tuple[int, int], confidence: float) -> list[OcrLine]:
        """Parse the model's output for an image of this size. All lines get the confidence of the image."""
        found = self.processor.post_process_generation(text=text, task=TASK, image_size=size)[TASK]
        lines = []
        for label, quad in zip(found["labels"], found["quad_boxes"], strict=True):
            words = label.replace("<s>", "").replace("</s>", "").replace("<pad>", "").strip()
            if words:
                lines.append(OcrLine(words, confidence, np.asarray(quad, np.float32).reshape(4, 2)))
        return lines


class _ConfidenceRecorder(LogitsProcessor):
    """Records the log-probability of each token during greedy decoding.

    The scores of the whole vocabulary would take much memory. Raises CallCancelledError before the next token once the
    caller has been cancelled.
    """

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        stop_if_cancelled()
        self.steps.append(torch.log_softmax(scores.float(), dim=-1).amax(-1))
        return scores

    def confidences(self, written: Tensor, padding: int) -> list[float]:
        """Return the geometric mean of the token probabilities for each image."""
        logprobs = torch.stack(self.steps, dim=1)
        counted = written[:, -logprobs.shape[1] :] != padding
        return ((logprobs * counted).sum(1) / counted.sum(1).clamp(min=1)).exp().tolist()
