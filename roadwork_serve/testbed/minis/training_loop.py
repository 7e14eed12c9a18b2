"""The training loop of all miniatures: seeded, resumable, and annealed over a wall-time budget."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from roadwork_serve.atomic_write import replace_file

CHECKPOINT_EVERY_S = 150.0
REPORT_EVERY_S = 60.0
CHECK_EVERY_S = 230.0
WARMUP = 0.04  # fraction of the time budget


class TrainingTask(Protocol):
    """The training task of one miniature: its data, its module and its loss."""

    name: str
    #: The miniature together with auxiliary layers that are dropped after training.
    module: Any

    def batches(self, seed: int) -> Iterator[Any]:
        """Yield batches without end."""
        ...

    def loss(self, batch: Any, progress: float) -> Tensor:
        """Return the loss of a batch. progress: fraction of the time budget that has passed."""
        ...

    def size(self, batch: Any) -> int:
        """Return the number of samples in a batch."""
        ...

    def check(self, module: Any) -> str:
        """Return the accuracy on held-out scenes as one line of text."""
        ...

    def save(self, module: Any, out: Path) -> None:
        """Write the weights of the miniature to a folder."""
        ...

    def load_weights(self, folder: Path) -> None:
        """Load saved weights to start from; auxiliary layers keep their random ones."""
        ...


def learning_rate(progress: float, peak: float) -> float:
    """Return the learning rate: linear warm-up, then a cosine to a hundredth, over the time budget."""
    if progress < WARMUP:
        return peak * max(progress, 0.001) / WARMUP
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP)))))


def optimizers(module: Any, lr: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the transformer blocks and AdamW for everything else."""
    inner, outer, bare = [], [], []
    for name, p in module.named_parameters():
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
    """Training figures of a miniature, for the model card."""

    minutes: float
    samples: int
    steps: int
    seed: int


class EmaModel:
    """Exponential moving average of the weights; the decay grows to `decay` over the first steps."""

    def __init__(self, module: Any, decay: float = 0.998) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, module: Any) -> None:
        """Move the average towards the weights of the module."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mine, theirs in zip(self.module.parameters(), module.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - decay)


@dataclass
class _Run:
    """The state of a training run."""

    file: Path
    module: Any
    average: EmaModel
    optimizers: list[torch.optim.Optimizer]
    spent_s: float = 0.0
    samples: int = 0
    steps: int = 0

    def save_checkpoint(self) -> None:
        """Write the state to disk atomically."""
        state = {
            "module": self.module.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "counts": (self.spent_s, self.samples, self.steps),
        }
        with replace_file(self.file) as draft:
            torch.save(state, draft)

    def resume(self) -> None:
        """Load the last checkpoint, if there is one."""
        if not self.file.exists():
            return
        state = torch.load(self.file, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.average.module.load_state_dict(state["average"])
        for optimizer, saved_s in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_s)
        self.spent_s, self.samples, self.steps = state["counts"]
        self.average.steps = self.steps
        print(f"{self.file.stem}: resumed after {self.spent_s / 60:.1f} minutes, {self.samples} samples", flush=True)


def train(
    task: TrainingTask,
    minutes: float,
    out: Path,
    work: Path,
    *,
    resume: bool = True,
    seed: int = 72,
    lr: float = 1e-3,
    threads: int = 2,
) -> TrainingSummary:
    """Train for the given minutes of wall time in total, then write the averaged weights to out.

    Every few minutes, and at the end, the state is saved to work/NAME.pt. With resume a stopped run continues from
    there, and so does a finished one that is given more minutes than it had.
    """
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    average = EmaModel(task.module)
    run = _Run(work / f"{task.name}.pt", task.module, average, optimizers(task.module, lr))
    if resume:
        run.resume()
    torch.manual_seed(seed + run.steps)
    budget, started = minutes * 60, time.monotonic() - run.spent_s
    reported_s = checked_s = saved_s = run.spent_s
    smooth: float | None = None
    batches = task.batches(seed + run.steps)
    while run.spent_s < budget:
        batch = next(batches)
        loss = _step(task, batch, run, run.spent_s / budget, lr)
        smooth = loss if smooth is None else smooth + 0.03 * (loss - smooth)
        average.update(task.module)
        run.steps, run.samples = run.steps + 1, run.samples + task.size(batch)
        run.spent_s = time.monotonic() - started
        if run.spent_s - reported_s >= REPORT_EVERY_S:
            line = ""
            if run.spent_s - checked_s >= CHECK_EVERY_S:
                line, checked_s = task.check(average.module), run.spent_s
            reported_s = run.spent_s
            print(
                f"{task.name} {reported_s / 60:5.1f} min {run.samples:7d} samples, loss {smooth:.3f} {line}", flush=True
            )
        if run.spent_s - saved_s >= CHECKPOINT_EVERY_S:
            saved_s = run.spent_s
            run.save_checkpoint()
    run.save_checkpoint()
    print(f"{task.name} done: {run.samples} samples, {run.steps} steps. {task.check(average.module)}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    task.save(average.module, out)
    return TrainingSummary(minutes, run.samples, run.steps, seed)


def _step(task: TrainingTask, batch: object, run: _Run, progress: float, lr: float) -> float:
    task.module.train()
    loss = task.loss(batch, progress)
    loss.backward()
    nn.utils.clip_grad_norm_(task.module.parameters(), 1.0)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()
