"""Stage 3B: Molmo 2 answers a question on the frames of a clip with one token, run by transformers."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_models.clock import Job
from benchmarks.gpu_models.machine import Machine
from benchmarks.gpu_models.models import build, noise, text_tokens, title
from benchmarks.gpu_models.plan import MOLMO, Plan
from benchmarks.gpu_models.qwen import answer
from benchmarks.gpu_models.results import Case

POOL = 3  # patches per side that are pooled into one token: pooling_size of Molmo2VideoProcessor
PROMPT_TOKENS, FRAME_TOKENS = 60, 7  # of the question; of a frame's two markers and its timestamp


def jobs(machine: Machine, plan: Plan) -> Iterator[Job]:
    """Yield the job for one clip."""
    model = build(MOLMO, machine)
    side = model.config.vision_config.image_size[0]
    inputs = _inputs(model, machine, plan.frames)
    case = Case("molmo", title(MOLMO, machine), "prefill + 1 token", 1, side, frames=plan.frames,
                prompt_tokens=inputs["input_ids"].shape[1], new_tokens=1)  # fmt: skip
    yield Job(case, partial(answer, model, inputs))


def _inputs(model: Any, machine: Machine, frames: int) -> dict[str, Tensor]:
    """Return the processor's output for a clip and a question."""
    vision = model.config.vision_config
    across = vision.image_size[0] // vision.patch_size
    grid = torch.arange(frames * across**2, device=machine.device).view(frames, across, across)
    pooled = grid.unfold(1, POOL, POOL).unfold(2, POOL, POOL).reshape(-1, POOL * POOL)
    rows = across // POOL
    image_tokens = torch.full((1, rows * rows), model.config.image_patch_id, device=machine.device)
    frames_and_timestamps = [
        part for _ in range(frames) for part in (text_tokens(machine, 1, FRAME_TOKENS), image_tokens)
    ]
    ids = torch.cat([*frames_and_timestamps, text_tokens(machine, 1, PROMPT_TOKENS)], 1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == model.config.image_patch_id).long(),
        "pixel_values_videos": noise(machine, frames, across**2, vision.num_channels * vision.patch_size**2),
        "video_token_pooling": pooled,
        "video_grids": torch.tensor([[frames, rows, rows]], device=machine.device),
    }
