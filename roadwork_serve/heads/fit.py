"""Trains the head of stage 1 on features, in seconds."""

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

TEXT = "words"  # name of the output for readable text in head.json
TEXT_LOSS_WEIGHT = 0.4  # of the loss, as in the training of the miniature
_MIN_TEXT_ROWS = 20  # rows of each class below which a head gets no text output
_MONITORED = "val_log_loss"


@dataclass(frozen=True, slots=True)
class HeadTraining:
    """Hyperparameters of head training."""

    #: Features to use; by default all that the set has.
    recipe: Recipe | None = None
    #: Width of the hidden layer; 0 for a linear head.
    hidden: int = 256
    dropout: float = 0.1
    #: Share of road work that the class weights simulate; "auto" is 0.5, None leaves the classes as they are.
    positive_prior: float | Literal["auto"] | None = "auto"
    #: Human labels are moved this far towards 0.5.
    label_smoothing: float = 0.0
    #: Alpha of the Beta(alpha, alpha) that mixes rows (Zhang et al., 2018); 0 for none.
    mixup: float = 0.0
    #: Fraction of the groups held out for early stopping.
    val_fraction: float = 0.2
    epochs: int = 200
    #: Epochs without improvement after which training stops.
    patience: int = 20
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 72
    threads: int = 1

    def __post_init__(self) -> None:
        for wrong, message in (
            (not 0 <= self.label_smoothing < 1, "label_smoothing must be from 0 up to, not including, 1"),
            (self.mixup < 0, "mixup must be 0 or more"),
            (not 0 < self.val_fraction <= 0.5, "val_fraction must be above 0 and at most 0.5"),
            (
                isinstance(self.positive_prior, float) and not 0 < self.positive_prior < 1,
                "positive_prior must be between 0 and 1",
            ),
            (
                min(self.epochs, self.patience, self.batch, self.threads) < 1 or self.hidden < 0,
                "epochs, patience, batch and threads must be 1 or more, hidden 0 or more",
            ),
        ):
            if wrong:
                raise ConfigError(f"head training: {message}")


@dataclass(frozen=True, slots=True)
class HeadFit:
    """A trained head."""

    head: Head
    split: GroupSplit
    #: On the validation groups, which early stopping used; slightly optimistic.
    val_metrics: HeadMetrics
    train_metrics: HeadMetrics
    epochs: int
    best_epoch: int
    seconds: float


def fit_head(features: FeatureSet, settings: HeadTraining) -> HeadFit:
    """Train on the training groups, stop early on the validation groups, and keep the best weights.

    The same features, settings and machine give the same weights, bit for bit. The head gets a text output only when
    enough rows of each class are known. Raises ConfigError when the groups do not allow a validation split.
    """
    started = time.monotonic()
    features = drop_teacher_duplicates(features)
    features = features.narrowed(settings.recipe or features.recipe)
    truth = features.target >= 0.5
    parts = group_split(features.together, truth, settings.val_fraction, settings.seed)
    train_set, val_set = features.rows(parts.train), features.rows(parts.val)
    with deterministic(settings):
        module = HeadModule(new_head(train_set, settings), train_set, val_set, settings)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=settings.epochs,
            callbacks=[EarlyStopping(_MONITORED, patience=settings.patience, check_on_train_epoch_end=True)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
        )
        trainer.fit(module, module.batches())
        head = module.head
        head.load_state_dict(module.best)
        head.eval().requires_grad_(False)
        return HeadFit(
            head,
            parts,
            head_metrics(val_set, predict_logits(head, val_set)),
            head_metrics(train_set, predict_logits(head, train_set)),
            trainer.current_epoch,
            module.best_epoch,
            time.monotonic() - started,
        )


@torch.inference_mode()
def predict_logits(head: Head, features: FeatureSet, output: str = ROADWORK) -> np.ndarray:
    """Return the logits of a head, float64 [rows]. Raises ConfigError for a missing output or other features."""
    if output not in head.settings.outputs:
        raise ConfigError(f"this head has no output {output}; train it anew")
    if head.settings.width != features.width:
        raise ConfigError(f"the head needs features of width {head.settings.width}, these have {features.width}")
    x = torch.from_numpy(np.ascontiguousarray(features.narrowed(head.settings.recipe).x))
    return head.eval()(x)[:, head.settings.outputs.index(output)].double().numpy()


def new_head(train_set: FeatureSet, settings: HeadTraining) -> Head:
    """Return an untrained head for the features of a set, with a text output if enough rows of each class are known."""
    known = train_set.has_text[~np.isnan(train_set.has_text)]
    text_target = min(int((known >= 0.5).sum()), int((known < 0.5).sum())) >= _MIN_TEXT_ROWS
    return Head(
        HeadSettings(
            width=train_set.width,
            recipe=train_set.recipe,
            hidden=settings.hidden,
            dropout=settings.dropout,
            outputs=(ROADWORK, TEXT) if text_target else (ROADWORK,),
            backbone=train_set.backbone,
        )
    )


class HeadModule(lightning.LightningModule):
    """The training of a head. It has its own random generator; dropout uses the global one, see `deterministic`."""

    def __init__(self, head: Head, train_set: FeatureSet, val_set: FeatureSet, settings: HeadTraining) -> None:
        super().__init__()
        self.head, self.settings = head, settings
        self.val_set = val_set
        target = torch.from_numpy(train_set.target)
        smooth = torch.from_numpy(train_set.human_labeled).float() * settings.label_smoothing
        text_target = torch.from_numpy(train_set.has_text)
        self.rows = (
            torch.from_numpy(np.ascontiguousarray(train_set.x)),
            target * (1 - smooth) + 0.5 * smooth,
            torch.from_numpy(class_weights(train_set, settings.positive_prior)),
            text_target.nan_to_num(0.0),
            (~text_target.isnan()).float() * torch.from_numpy(train_set.weight),
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.best_loss = 0, math.inf

    def batches(self) -> "_Batches":
        """Return the batches of an epoch."""
        return _Batches(self.rows, self.settings, self.generator)

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        """See `LightningModule`."""
        x, target, weight, text_target, known = batch
        logits = self.head(x)
        loss = _weighted_loss(logits[:, 0], target, weight)
        if logits.shape[1] > 1:
            loss = loss + TEXT_LOSS_WEIGHT * _weighted_loss(logits[:, 1], text_target, known)
        return loss

    def on_train_epoch_end(self) -> None:
        """See `LightningModule`."""
        now = log_loss(
            predict_logits(self.head, self.val_set),
            self.val_set.target,
            class_weights(self.val_set, self.settings.positive_prior),
        )
        if now < self.best_loss:
            self.best_loss, self.best_epoch = now, self.current_epoch
            self.best = {name: weights.detach().clone() for name, weights in self.head.state_dict().items()}
        self.head.train()
        self.log(_MONITORED, now, batch_size=1)

    def configure_optimizers(self) -> Any:
        """See `LightningModule`."""
        optimizer = torch.optim.AdamW(self.parameters(), self.settings.lr, weight_decay=self.settings.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.settings.epochs, self.settings.lr / 20)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class _Batches:
    """The batches of an epoch, reshuffled every epoch, with mixup if configured."""

    def __init__(self, rows: tuple[Tensor, ...], settings: HeadTraining, generator: torch.Generator) -> None:
        self.rows, self.settings, self.generator = rows, settings, generator
        self.mix = np.random.default_rng(settings.seed)

    def __len__(self) -> int:
        return math.ceil(len(self.rows[0]) / self.settings.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(len(self.rows[0]), generator=self.generator)
        for part in order.split(self.settings.batch):
            batch = tuple(column[part] for column in self.rows)
            yield self._mix(batch) if self.settings.mixup else batch

    def _mix(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Mix pairs of rows; targets are averaged by the weights of both rows."""
        share = torch.from_numpy(
            self.mix.beta(self.settings.mixup, self.settings.mixup, len(batch[0])).astype(np.float32)
        )
        other = torch.randperm(len(batch[0]), generator=self.generator)
        x, target, weight, text_target, known = batch
        blend = lambda a: share * a + (1 - share) * a[other]  # noqa: E731
        message = blend(weight).clamp(min=1e-12)
        text_weight = blend(known)
        return (
            share[:, None] * x + (1 - share[:, None]) * x[other],
            blend(target * weight) / message,
            message,
            blend(text_target * known) / text_weight.clamp(min=1e-12),
            text_weight,
        )


def class_weights(features: FeatureSet, positive_prior: float | Literal["auto"] | None) -> np.ndarray:
    """Return weights, float32 [rows] with mean 1, under which the share of road work is positive_prior."""
    weight = features.weight / features.weight.mean()
    if positive_prior is None:
        return weight.astype(np.float32)
    prior = 0.5 if positive_prior == "auto" else positive_prior
    observed = float(np.average(features.target, weights=weight))
    if not 0 < observed < 1:
        return weight.astype(np.float32)
    by = features.target * (prior / observed) + (1 - features.target) * ((1 - prior) / (1 - observed))
    return (weight * by).astype(np.float32)


def _weighted_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * weight).sum() / weight.sum().clamp(min=1e-6)


@contextmanager
def deterministic(settings: HeadTraining, deterministic: bool = True) -> Iterator[None]:
    """Seed PyTorch, limit its threads and silence Lightning; restore everything afterwards."""
    log = logging.getLogger("lightning.pytorch")
    threads, level, before = torch.get_num_threads(), log.level, torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)  # about the number of loader workers
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
