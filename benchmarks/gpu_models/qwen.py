"""Stages 2B and 3A: Qwen3-VL answers a question on a square image with one token, or with reasoning.

Run by transformers, one batch at a time: no vLLM, no continuous batching, 16-bit weights.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_models.clock import Job
from benchmarks.gpu_models.machine import Machine
from benchmarks.gpu_models.models import build, noise, text_tokens, title
from benchmarks.gpu_models.plan import QWEN, Plan
from benchmarks.gpu_models.results import Case
from roadwork_serve.engines.transformers import embed_patches_by_matmul

PROMPT_TOKENS = 65  # of the question in its chat template, as profiles/flops.yaml counts them


def jobs(machine: Machine, plan: Plan) -> Iterator[Job]:
    """Yield jobs with one token at every size and batch, and with reasoning at the reference size."""
    model = build(QWEN, machine)
    embed_patches_by_matmul(model)
    model.generation_config.eos_token_id = None
    name = title(QWEN, machine)
    for batch in plan.qwen_batches:
        for side in plan.qwen_sides:
            inputs = _inputs(model, machine, batch, side)
            prompt = inputs["input_ids"].shape[1]
            case = Case("qwen", name, "prefill + 1 token", batch, side, prompt_tokens=prompt, new_tokens=1)
            yield Job(case, partial(answer, model, inputs))
    for batch in plan.qwen_batches:
        inputs = _inputs(model, machine, batch, plan.reference_side)
        case = Case("qwen", name, "prefill + tokens", batch, plan.reference_side,
                    prompt_tokens=inputs["input_ids"].shape[1], new_tokens=plan.reasoning_tokens)  # fmt: skip
        yield Job(case, partial(_reason, model, inputs, plan.reasoning_tokens))


def answer(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits of the next token, [n, vocabulary], as in `VisionLanguageEngine.answer`."""
    return model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]


def _inputs(model: Any, machine: Machine, batch: int, side: int) -> dict[str, Tensor]:
    """Return the processor's output for a square image and a question: one token for 2 x 2 patches."""
    config, vision = model.config, model.config.vision_config
    patches = side // vision.patch_size
    image_tokens = (patches // vision.spatial_merge_size) ** 2
    start, image, end = (
        torch.full((batch, n), token, device=machine.device)
        for n, token in ((1, config.vision_start_token_id), (image_tokens, config.image_token_id),
                         (1, config.vision_end_token_id))
    )  # fmt: skip
    before = text_tokens(machine, batch, 4)  # the header of the chat message
    ids = torch.cat([before, start, image, end, text_tokens(machine, batch, PROMPT_TOKENS - 6)], 1)
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": noise(machine, batch * patches**2, width),
        "image_grid_thw": torch.tensor([[1, patches, patches]] * batch, device=machine.device),
    }


def _reason(model: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
    generated = model.generate(**inputs, max_new_tokens=tokens, num_beams=1, do_sample=False)
    new = generated.shape[1] - inputs["input_ids"].shape[1]
    if new != tokens:
        raise RuntimeError(f"Qwen3-VL generated {new} tokens instead of {tokens}")
    return generated
