"""Stage 1: a DINOv3 forward pass, in eager mode, compiled, with CUDA graphs and by TensorRT."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_models import tensorrt
from benchmarks.gpu_models.clock import Job
from benchmarks.gpu_models.machine import Machine
from benchmarks.gpu_models.models import build, noise, title
from benchmarks.gpu_models.plan import BACKBONE, Plan
from benchmarks.gpu_models.results import Case, Mode


def jobs(machine: Machine, plan: Plan, modes: tuple[Mode, ...]) -> Iterator[Job]:
    """Yield a job for every mode, side and batch; CUDA graphs for small batches only."""
    model = build(BACKBONE, machine)
    name = title(BACKBONE, machine)
    plain = partial(_tokens, model)
    for mode in modes:
        for side in plan.sides:
            if mode == "tensorrt":
                yield from _tensorrt_jobs(model, plain, side, machine, plan)
                continue
            forward = _forward(plain, mode, machine)
            for batch in plan.graph_batches if mode == "graphs" else plan.batches:
                images = noise(machine, batch, 3, side, side)
                case = Case("stage1", name, "forward", batch, side, mode)
                yield Job(case, partial(forward, images), partial(plain, images))
    torch._dynamo.reset()  # frees its GPU memory for the other parts


def _tensorrt_jobs(
    model: Any, plain: Callable[[Tensor], Tensor], side: int, machine: Machine, plan: Plan
) -> Iterator[Job]:
    """Yield the jobs with TensorRT. They include normalization and the head, at a negligible cost."""
    forward = tensorrt.Plan(model, side, max(plan.batches))
    for batch in plan.batches:
        thumbs = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=machine.device)
        images = noise(machine, batch, 3, side, side)
        case = Case("stage1", title(BACKBONE, machine), "thumbs to logits, fp16", batch, side, "tensorrt")
        yield Job(case, partial(forward, thumbs), partial(plain, images))


def _tokens(model: Any, images: Tensor) -> Tensor:
    """Return the tokens, [n, 3, side, side] -> [n, tokens, width]."""
    return model(images).last_hidden_state


def _forward(plain: Callable[[Tensor], Tensor], mode: Mode, machine: Machine) -> Callable[[Tensor], Tensor]:
    """Return the forward pass, in eager mode or compiled for each batch separately, like the server's engine."""
    if mode == "eager":
        return plain
    torch._dynamo.reset()  # a function has at most eight compilations; further ones would run uncompiled
    if machine.tiny:  # traced but not compiled, which would take minutes
        return torch.compile(plain, backend="eager", dynamic=False)
    return torch.compile(plain, mode="reduce-overhead" if mode == "graphs" else "default", dynamic=False)
