"""Stage 2A: Florence-2 encodes an image and generates a fixed number of tokens, greedily."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_models.clock import Job
from benchmarks.gpu_models.machine import Machine
from benchmarks.gpu_models.models import build, noise, text_tokens, title
from benchmarks.gpu_models.plan import FLORENCE, Plan
from benchmarks.gpu_models.results import Case

PROMPT_TOKENS = 6  # of <OCR_WITH_REGION>


def jobs(machine: Machine, plan: Plan) -> Iterator[Job]:
    """Yield a job for every batch and number of tokens."""
    model = build(FLORENCE, machine)
    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    model.config.image_token_id = model.config.text_config.vocab_size - 1  # the default is outside the vocabulary
    for batch in plan.florence_batches:
        inputs = _inputs(model, machine, batch, plan.florence_side)
        for tokens in plan.florence_tokens:
            case = Case("florence", title(FLORENCE, machine), "prefill + tokens", batch, plan.florence_side,
                        prompt_tokens=inputs["input_ids"].shape[1], new_tokens=tokens)  # fmt: skip
            yield Job(case, partial(_generate, model, inputs, tokens))


def _inputs(model: Any, machine: Machine, batch: int, side: int) -> dict[str, Tensor]:
    pixels = noise(machine, batch, 3, side, side)
    with torch.inference_mode():
        image_tokens = model.get_image_features(pixels[:1]).pooler_output.shape[1]
    image = torch.full((batch, image_tokens), model.config.image_token_id, device=machine.device)
    ids = torch.cat([image, text_tokens(machine, batch, PROMPT_TOKENS)], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def _generate(model: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
    """Return the generated tokens, [n, 1 + tokens]; the first one starts the decoder."""
    written = model.generate(**inputs, max_new_tokens=tokens, num_beams=1, do_sample=False)
    if written.shape[1] != 1 + tokens:
        raise RuntimeError(f"Florence-2 generated {written.shape[1] - 1} tokens instead of {tokens}")
    return written
