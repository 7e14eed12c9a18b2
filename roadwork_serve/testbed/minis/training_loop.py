"""The training loop that all miniatures share: seeded, resumable, and annealed when its wall time is spent."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

KEEP_EVERY_S = 150.0
REPORT_EVERY_S = 60.0
CHECK_EVERY_S = 230.0
WARMUP = 0.04  # share of the time budget


class TrainingTask(Protocol):
    """What is taught to one miniature."""

    name: str
    learner: Any  # the miniature and whatever is thrown away after training

    def batches(self, seed: int) -> Iterator[Any]: ...
    def loss(self, batch: Any, progress: float) -> Tensor: ...
    def size(self, batch: Any) -> int: ...
    def check(self, learner: Any) -> str:
        """Accuracy on scenes that are not trained on, as one line."""
        ...

    def save(self, learner: Any, out: Path) -> None: ...
    def take_up(self, folder: Path) -> None:
        """Start from weights that were saved; what is thrown away after training starts anew."""
        ...


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine to a hundredth, over the share of the time budget that has passed."""
    if progress < WARMUP:
        return peak * max(progress, 0.001) / WARMUP
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP)))))


def optimizers(learner: Any, lr: float) -> list[torch.optim.Optimizer]:
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


@dataclass(frozen=True)
class TrainingSummary:
    """How a miniature was taught: for the model card."""

    minutes: float
    samples: int
    steps: int
    seed: int


class EmaModel:
    """Exponential moving average of the weights; short at first, `decay` later."""

    def __init__(self, learner: Any, decay: float = 0.998) -> None:
        self.learner = copy.deepcopy(learner).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, learner: Any) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mine, theirs in zip(self.learner.parameters(), learner.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - decay)


@dataclass
class _Run:
    """Where a run stands; kept on disk so that it can go on."""

    file: Path
    learner: Any
    average: EmaModel
    steppers: list[torch.optim.Optimizer]
    spent_s: float = 0.0
    seen: int = 0
    steps: int = 0

    def keep(self) -> None:
        """Write everything, whole or not at all."""
        state = {
            "learner": self.learner.state_dict(),
            "average": self.average.learner.state_dict(),
            "steppers": [stepper.state_dict() for stepper in self.steppers],
            "counts": (self.spent_s, self.seen, self.steps),
        }
        draft = self.file.with_suffix(".draft")
        torch.save(state, draft)
        draft.rename(self.file)

    def go_on(self) -> None:
        """Take up what was kept, if anything was."""
        if not self.file.exists():
            return
        state = torch.load(self.file, weights_only=True)
        self.learner.load_state_dict(state["learner"])
        self.average.learner.load_state_dict(state["average"])
        for stepper, kept in zip(self.steppers, state["steppers"], strict=True):
            stepper.load_state_dict(kept)
        self.spent_s, self.seen, self.steps = state["counts"]
        self.average.steps = self.steps
        print(f"{self.file.stem}: goes on after {self.spent_s / 60:.1f} minutes, {self.seen} samples", flush=True)


def train(
    course: TrainingTask,
    minutes: float,
    out: Path,
    work: Path,
    *,
    resume: bool = True,
    seed: int = 72,
    lr: float = 1e-3,
    threads: int = 2,
) -> TrainingSummary:
    """Teach for the given minutes of wall time in all, then write the averaged weights to out.

    Every few minutes, and at the end, the whole state goes to work/NAME.pt. With resume a stopped run goes on from
    there; a finished one does too when it is given more minutes than it had.
    """
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    average = EmaModel(course.learner)
    run = _Run(work / f"{course.name}.pt", course.learner, average, optimizers(course.learner, lr))
    if resume:
        run.go_on()
    torch.manual_seed(seed + run.steps)
    budget, began = minutes * 60, time.monotonic() - run.spent_s
    told = checked = kept = run.spent_s
    smooth: float | None = None
    batches = course.batches(seed + run.steps)
    while run.spent_s < budget:
        batch = next(batches)
        loss = _step(course, batch, run, run.spent_s / budget, lr)
        smooth = loss if smooth is None else smooth + 0.03 * (loss - smooth)
        average.update(course.learner)
        run.steps, run.seen = run.steps + 1, run.seen + course.size(batch)
        run.spent_s = time.monotonic() - began
        if run.spent_s - told >= REPORT_EVERY_S:
            line = ""
            if run.spent_s - checked >= CHECK_EVERY_S:
                line, checked = course.check(average.learner), run.spent_s
            told = run.spent_s
            print(f"{course.name} {told / 60:5.1f} min {run.seen:7d} seen, loss {smooth:.3f} {line}", flush=True)
        if run.spent_s - kept >= KEEP_EVERY_S:
            kept = run.spent_s
            run.keep()
    run.keep()
    print(f"{course.name} done: {run.seen} samples, {run.steps} steps. {course.check(average.learner)}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    course.save(average.learner, out)
    return TrainingSummary(minutes, run.seen, run.steps, seed)


def _step(course: TrainingTask, batch: object, run: _Run, progress: float, lr: float) -> float:
    course.learner.train()
    loss = course.loss(batch, progress)
    loss.backward()
    nn.utils.clip_grad_norm_(course.learner.parameters(), 1.0)
    for stepper in run.steppers:
        for group in stepper.param_groups:
            group["lr"] = learning_rate(progress, lr)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
    return loss.item()
