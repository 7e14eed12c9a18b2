"""The training loop that all miniatures share: seeded, resumable, and annealed when its wall time is spent."""

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

CHECKPOINT_EVERY_S = 150.0
REPORT_EVERY_S = 60.0
WARMUP = 0.04  # share of the time budget


class Course(Protocol):
    """What is taught to one miniature."""

    name: str
    learner: nn.Module  # the miniature and whatever is thrown away after training

    def batches(self, seed: int) -> Iterator[Any]: ...
    def loss(self, batch: Any, progress: float) -> Tensor: ...
    def size(self, batch: Any) -> int: ...
    def check(self, learner: nn.Module) -> str:
        """Accuracy on scenes that are not trained on, as one line."""
        ...

    def save(self, learner: nn.Module, out: Path, seen: int) -> None: ...


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine to a hundredth, over the share of the time budget that has passed."""
    if progress < WARMUP:
        return peak * max(progress, 0.001) / WARMUP
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP)))))


def optimizers(learner: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer blocks, AdamW for everything else."""
    inner, outer, bare = [], [], []
    for name, p in learner.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim == 2 and (".layer" in name or ".blocks." in name or "merger" in name):
            inner.append(p)
        elif p.ndim >= 2:
            outer.append(p)
        else:
            bare.append(p)
    groups = [{"params": outer, "weight_decay": 0.02}, {"params": bare, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    muon = torch.optim.Muon(inner, lr=lr, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, adam]


class Average:
    """Exponential moving average of the weights; short at first, `decay` later."""

    def __init__(self, learner: nn.Module, decay: float = 0.998) -> None:
        self.learner = copy.deepcopy(learner).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, learner: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mine, theirs in zip(self.learner.parameters(), learner.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - decay)


def train(
    course: Course,
    minutes: float,
    out: Path,
    work: Path,
    *,
    resume: bool = True,
    seed: int = 72,
    lr: float = 1e-3,
    threads: int = 2,
) -> None:
    """Teach for the given minutes of wall time, then write the averaged weights to out.

    Every few minutes the whole state goes to work/NAME.pt; with resume a stopped run goes on from there.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    state_file = work / f"{course.name}.pt"
    steppers, average = optimizers(course.learner, lr), Average(course.learner)
    spent, seen, steps = 0.0, 0, 0
    if resume and state_file.exists():
        state = torch.load(state_file, weights_only=True)
        course.learner.load_state_dict(state["learner"])
        average.learner.load_state_dict(state["average"])
        for stepper, kept in zip(steppers, state["steppers"], strict=True):
            stepper.load_state_dict(kept)
        spent, seen, steps, average.steps = state["spent"], state["seen"], state["steps"], state["steps"]
        print(f"{course.name}: goes on after {spent / 60:.1f} minutes and {seen} samples", flush=True)
    budget, began, told, kept_at = minutes * 60, time.monotonic() - spent, spent, spent
    running = 0.0
    batches = course.batches(seed + steps)
    while (spent := time.monotonic() - began) < budget:
        batch = next(batches)
        course.learner.train()
        loss = course.loss(batch, spent / budget)
        loss.backward()
        nn.utils.clip_grad_norm_(course.learner.parameters(), 1.0)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = learning_rate(spent / budget, lr)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        average.update(course.learner)
        steps, seen = steps + 1, seen + course.size(batch)
        running += 0.03 * (loss.item() - running) if running else loss.item()
        if spent - told >= REPORT_EVERY_S:
            line = course.check(average.learner) if int(spent // REPORT_EVERY_S) % 3 == 0 else ""
            told = spent
            print(f"{course.name} {spent / 60:5.1f} min {seen:7d} seen loss {running:.3f} {line}", flush=True)
        if spent - kept_at >= CHECKPOINT_EVERY_S:
            kept_at = spent
            state = {"learner": course.learner.state_dict(), "average": average.learner.state_dict(), "spent": spent,
                     "seen": seen, "steps": steps, "steppers": [s.state_dict() for s in steppers]}  # fmt: skip
            torch.save(state, state_file.with_suffix(".part"))
            state_file.with_suffix(".part").rename(state_file)
    out.mkdir(parents=True, exist_ok=True)
    print(f"{course.name} done: {seen} samples in {steps} steps. {course.check(average.learner)}", flush=True)
    course.save(average.learner, out, seen)
    state_file.unlink(missing_ok=True)
