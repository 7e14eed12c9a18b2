"""How the head of stage 1 learns from features, in seconds."""

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.nn import functional as F

from roadwork_serve.engines.features import Head, HeadSettings, Recipe
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.feature_set import FeatureSet, drop_teacher_duplicates
from roadwork_serve.heads.head_metrics import HeadMetrics, head_metrics, log_loss
from roadwork_serve.heads.holdout import GroupSplit, group_split

WORDS = "words"
WORDS_SHARE = 0.4  # of the loss, as the miniature was taught
_ENOUGH_WORDS = 20  # rows of either kind below which a head claims to know nothing of words
_WATCHED = "held_log_loss"


@dataclass(frozen=True, slots=True)
class HeadTraining:
    """How a head is trained.

    recipe: of the features; by default all that the set has. balance: share of road work that the head is trained for
        by weighing the classes; "auto" a half, None as they come.
    smoothing: labels of people are drawn so far towards a half. mixup: alpha of Beta(alpha, alpha), by which rows and
        targets are blended (Zhang et al., 2018); 0 for none.
    held: share of the groups that is kept to stop by. patience: epochs without gain after which it stops.
    """

    recipe: Recipe | None = None
    hidden: int = 256
    dropout: float = 0.1
    balance: float | Literal["auto"] | None = "auto"
    smoothing: float = 0.0
    mixup: float = 0.0
    held: float = 0.2
    epochs: int = 200
    patience: int = 20
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 72
    threads: int = 1

    def __post_init__(self) -> None:
        for wrong, told in (
            (not 0 <= self.smoothing < 1, "smoothing is from 0 up to, not including, 1"),
            (self.mixup < 0, "mixup is 0 or more"),
            (not 0 < self.held <= 0.5, "held is above 0 and at most 0.5"),
            (isinstance(self.balance, float) and not 0 < self.balance < 1, "balance is a share between 0 and 1"),
            (min(self.epochs, self.patience, self.batch, self.hidden, self.threads) < 1, "counts are 1 or more"),
        ):
            if wrong:
                raise ConfigError(f"head training: {told}")


@dataclass(frozen=True, slots=True)
class HeadFit:
    """A trained head. held: how it does on what it was stopped by, which flatters it a little; taught: on the rest."""

    head: Head
    split: GroupSplit
    held: HeadMetrics
    taught: HeadMetrics
    epochs: int
    best_epoch: int
    seconds: float


def fit_head(features: FeatureSet, settings: HeadTraining) -> HeadFit:
    """Train on groups that are not held, stop by those that are, keep the best weights.

    The same features, settings and machine give the same weights, bit for bit. The head tells words only where enough
    rows of either kind are known. Raises ConfigError where the groups do not allow a part to be held.
    """
    began = time.monotonic()
    features = drop_teacher_duplicates(features)
    features = features.narrowed(settings.recipe or features.recipe)
    truth = features.target >= 0.5
    parts = group_split(features.together, truth, settings.held, settings.seed)
    taught, held = features.rows(parts.train), features.rows(parts.held)
    with deterministic(settings):
        lesson = HeadModule(new_head(taught, settings), taught, held, settings)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=settings.epochs,
            callbacks=[EarlyStopping(_WATCHED, patience=settings.patience, check_on_train_epoch_end=True)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
        )
        trainer.fit(lesson, lesson.batches())
        head = lesson.head
        head.load_state_dict(lesson.best)
        head.eval().requires_grad_(False)
        return HeadFit(
            head,
            parts,
            head_metrics(held, predict_logits(head, held)),
            head_metrics(taught, predict_logits(head, taught)),
            trainer.current_epoch,
            lesson.best_epoch,
            time.monotonic() - began,
        )


@torch.inference_mode()
def predict_logits(head: Head, features: FeatureSet, output: str = ROADWORK) -> np.ndarray:
    """Logits of a head, float64 [rows]. Raises ConfigError where it has no such output or wants other features."""
    if output not in head.settings.outputs:
        raise ConfigError(f"this head says nothing of {output}")
    if head.settings.width != features.width:
        raise ConfigError(f"the head wants features {head.settings.width} wide, these are {features.width}")
    x = torch.from_numpy(np.ascontiguousarray(features.narrowed(head.settings.recipe).x))
    return head.eval()(x)[:, head.settings.outputs.index(output)].double().numpy()


def new_head(taught: FeatureSet, settings: HeadTraining) -> Head:
    """Untrained, for the features of a set, with words where enough is known of them there."""
    known = taught.words[~np.isnan(taught.words)]
    words = min(int((known >= 0.5).sum()), int((known < 0.5).sum())) >= _ENOUGH_WORDS
    return Head(
        HeadSettings(
            width=taught.width,
            recipe=taught.recipe,
            hidden=settings.hidden,
            dropout=settings.dropout,
            outputs=(ROADWORK, WORDS) if words else (ROADWORK,),
            backbone=taught.backbone,
        )
    )


class HeadModule(lightning.LightningModule):
    """Blends and shuffles by a generator of its own; dropout goes by the global one, which `deterministic` seeds."""

    def __init__(self, head: Head, taught: FeatureSet, held: FeatureSet, settings: HeadTraining) -> None:
        super().__init__()
        self.head, self.settings = head, settings
        self.held = held
        target = torch.from_numpy(taught.target)
        smooth = torch.from_numpy(taught.human_labeled).float() * settings.smoothing
        words = torch.from_numpy(taught.words)
        self.rows = (
            torch.from_numpy(np.ascontiguousarray(taught.x)),
            target * (1 - smooth) + 0.5 * smooth,
            torch.from_numpy(class_weights(taught, settings.balance)),
            words.nan_to_num(0.0),
            (~words.isnan()).float() * torch.from_numpy(taught.weight),
        )
        self.chance = torch.Generator().manual_seed(settings.seed)
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.least = 0, math.inf

    def batches(self) -> "_Batches":
        return _Batches(self.rows, self.settings, self.chance)

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        x, target, weight, words, known = batch
        logits = self.head(x)
        loss = _weighed(logits[:, 0], target, weight)
        if logits.shape[1] > 1:
            loss = loss + WORDS_SHARE * _weighed(logits[:, 1], words, known)
        return loss

    def on_train_epoch_end(self) -> None:
        now = log_loss(
            predict_logits(self.head, self.held), self.held.target, class_weights(self.held, self.settings.balance)
        )
        if now < self.least:
            self.least, self.best_epoch = now, self.current_epoch
            self.best = {name: weights.detach().clone() for name, weights in self.head.state_dict().items()}
        self.head.train()
        self.log(_WATCHED, now, batch_size=1)

    def configure_optimizers(self) -> Any:
        stepper = torch.optim.AdamW(self.parameters(), self.settings.lr, weight_decay=self.settings.weight_decay)
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, self.settings.epochs, self.settings.lr / 20)
        return {"optimizer": stepper, "lr_scheduler": slower}


class _Batches:
    """Whole batches, rows in a new order every epoch, blended where mixup is asked for."""

    def __init__(self, rows: tuple[Tensor, ...], settings: HeadTraining, chance: torch.Generator) -> None:
        self.rows, self.settings, self.chance = rows, settings, chance
        self.mix = np.random.default_rng(settings.seed)

    def __len__(self) -> int:
        return math.ceil(len(self.rows[0]) / self.settings.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(len(self.rows[0]), generator=self.chance)
        for part in order.split(self.settings.batch):
            batch = tuple(column[part] for column in self.rows)
            yield self._mixed(batch) if self.settings.mixup else batch

    def _mixed(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of two rows each counts by its weight, words and what is known of them as well."""
        share = torch.from_numpy(
            self.mix.beta(self.settings.mixup, self.settings.mixup, len(batch[0])).astype(np.float32)
        )
        other = torch.randperm(len(batch[0]), generator=self.chance)
        x, target, weight, words, known = batch
        blend = lambda a: share * a + (1 - share) * a[other]  # noqa: E731
        told = blend(weight).clamp(min=1e-12)
        heard = blend(known)
        return (
            share[:, None] * x + (1 - share[:, None]) * x[other],
            blend(target * weight) / told,
            told,
            blend(words * known) / heard.clamp(min=1e-12),
            heard,
        )


def class_weights(features: FeatureSet, balance: float | Literal["auto"] | None) -> np.ndarray:
    """Weights float32 [rows], of mean 1, under which so large a share is road work."""
    weight = features.weight / features.weight.mean()
    if balance is None:
        return weight.astype(np.float32)
    wanted = 0.5 if balance == "auto" else balance
    there = float(np.average(features.target, weights=weight))
    if not 0 < there < 1:
        return weight.astype(np.float32)
    by = features.target * (wanted / there) + (1 - features.target) * ((1 - wanted) / (1 - there))
    return (weight * by).astype(np.float32)


def _weighed(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * weight).sum() / weight.sum().clamp(min=1e-6)


@contextmanager
def deterministic(settings: HeadTraining, deterministic: bool = True) -> Iterator[None]:
    """PyTorch seeded and on so many threads, Lightning silent; as before afterwards."""
    log = logging.getLogger("lightning.pytorch")
    threads, level, before = torch.get_num_threads(), log.level, torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)  # of more workers for a loader that needs none
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)  # Lightning's own use of PyTorch
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        torch.use_deterministic_algorithms(deterministic)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
            torch.use_deterministic_algorithms(before)
            torch.set_num_threads(threads)
