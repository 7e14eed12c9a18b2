"""Fine-tunes backbone and head together, end to end: sharded over GPUs with FSDP, or on a CPU.

The result is a folder in the layout of `from_pretrained` with the head beside the weights. The GPU path is
experimental, not yet run on hardware.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from roadwork_serve import media
from roadwork_serve.atomic_write import check_vacant, replace_folder, write_json
from roadwork_serve.datasets.base import CorruptItem, Dataset, first_reasons, nothing_usable
from roadwork_serve.engines.backbones import Backbone, load_backbone
from roadwork_serve.engines.features import Head, pool_features
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.errors import ConfigError, MediaError
from roadwork_serve.heads.extract import MAX_SKIPPED
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.heads.fit import TEXT_LOSS_WEIGHT, HeadTraining, class_weights, deterministic, new_head
from roadwork_serve.heads.head_metrics import HeadMetrics, head_metrics
from roadwork_serve.heads.holdout import group_split
from roadwork_serve.heads.model_card import Lineage, lineage
from roadwork_serve.printable import writable
from roadwork_serve.profiles.media_limits import MediaLimits

_VAL_BATCH = 32  # thumbs per batch in validation


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Settings that end-to-end training adds to those of a head."""

    epochs: int = 3
    batch: int = 32
    #: Learning rate of the backbone; the head has its own in `HeadTraining`.
    lr: float = 2e-5


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImages:
    """Thumbnails of labelled items, in memory."""

    #: uint8 [n, side, side, 3].
    thumbs: NDArray[np.uint8]
    #: Targets and metadata of the same rows, without features.
    known: FeatureSet
    #: Corrupt files that were left out.
    skipped: tuple[CorruptItem, ...]


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """The outcome of fine-tuning."""

    folder: Path
    #: On the validation groups, before training.
    val_metrics_before: HeadMetrics
    #: On the validation groups, after training.
    val_metrics: HeadMetrics
    train_metrics: HeadMetrics
    #: Optimizer steps.
    steps: int
    seconds: float
    fingerprint: str
    finetuning: FinetuneSettings
    lineage: Lineage


def load_images(datasets: Sequence[Dataset], limits: MediaLimits, max_skipped: int = MAX_SKIPPED) -> TrainingImages:
    """Read the thumbnails of every item that is not ignored. Raises ConfigError when too many files are corrupt."""
    thumbs, rows, skipped = list[NDArray[np.uint8]](), list[tuple[Any, int]](), list[CorruptItem]()
    unclear = 0
    for dataset in datasets:
        items = dataset.items()
        wanted = [each for each in items if not each.metadata.ignore]
        unclear += len(items) - len(wanted)
        for each, sample in zip(wanted, dataset.samples(wanted), strict=True):
            try:
                if isinstance(sample, CorruptItem):
                    raise MediaError(sample.reason)
                thumbnails = media.read(sample.data, limits).thumbs
            except MediaError as error:
                skipped.append(CorruptItem(each.metadata.name, str(error)))
                if len(skipped) > max_skipped:
                    raise ConfigError(
                        f"more than {max_skipped} files cannot be used, among them {first_reasons(skipped)}"
                    ) from None
                continue
            thumbs.append(thumbnails)
            rows += [(each, len(thumbnails))] * len(thumbnails)
    if not thumbs:
        raise nothing_usable(skipped, unclear)
    known = FeatureSet(
        model="",
        recipe="cls",
        x=np.zeros((len(rows), 0), np.float32),
        target=np.array([each.metadata.label for each, _ in rows], np.float32),
        human_labeled=np.array([not each.metadata.pseudo_labeled for each, _ in rows], bool),
        weight=np.array([1 / count for _, count in rows], np.float32),
        has_text=np.array([each.has_text for each, _ in rows], np.float32),
        group=tuple(each.metadata.group for each, _ in rows),
        name=tuple(each.metadata.name for each, _ in rows),
        metadata=tuple(each.metadata for each, _ in rows),
        origin=tuple(dataset.uri for dataset in datasets),
    )
    return TrainingImages(np.concatenate(thumbs), known, tuple(skipped))


def finetune(
    model: str,
    images: TrainingImages,
    settings: HeadTraining,
    finetuning: FinetuneSettings,
    out: Path,
    *,
    replace_out: bool = False,
    device: str | None = None,
    start: Head | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> FinetuneReport:
    """Fine-tune a backbone from a folder or hub id together with its head, and write both atomically.

    device: cpu, or cuda to shard over all GPUs of this machine (experimental, not yet run on hardware); by default cuda
    when there is a GPU. start: head to start from, a new one by default. callbacks: Lightning callbacks. Raises
    ConfigError, ModelError.
    """
    check_vacant(out, replace_out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    backbone = load_backbone(model, LoadOptions(threads=settings.threads))
    blocks = backbone.blocks()
    recipe = settings.recipe or "cls+mean+max"
    known = replace(
        images.known, model=model, recipe=recipe, backbone=fingerprint(model),
        x=np.zeros((len(images.known), backbone.width * len(recipe.split("+"))), np.float32),
    )  # fmt: skip
    parts = group_split(known.together, known.target >= 0.5, settings.val_fraction, settings.seed)
    train_set = known.rows(parts.train)
    began = time.monotonic()
    with deterministic(settings, deterministic=device == "cpu"):
        module = BackboneWithHead(backbone, start or new_head(train_set, settings), settings, finetuning)
        val_metrics_before = _score(module, images, known, parts.val)
        trainer = _trainer(device, blocks, finetuning, callbacks)
        trainer.fit(module, _loader(images, train_set, parts.train, settings, finetuning))
        weights = trainer.strategy.lightning_module_state_dict()
        seconds, steps = time.monotonic() - began, trainer.global_step
        if not trainer.is_global_zero:
            raise SystemExit(0)
        trained = BackboneWithHead(backbone.fresh(), Head(module.head.settings), settings, finetuning)
        trained.load_state_dict({name: weight.detach().cpu().clone() for name, weight in weights.items()})
        trained.eval().requires_grad_(False)
        val_metrics, train_metrics = (_score(trained, images, known, part) for part in (parts.val, parts.train))
    with replace_folder(out, replace_out) as draft:
        trained.backbone.save_pretrained(draft)
        new_fingerprint = fingerprint(str(draft))
        trained.head.settings = replace(trained.head.settings, backbone=new_fingerprint)
        trained.head.save(draft)
        origin = lineage(known, settings, writable(shlex.join(["roadwork", *sys.argv[1:]])))
        report = FinetuneReport(
            out, val_metrics_before, val_metrics, train_metrics, steps, seconds, new_fingerprint, finetuning, origin
        )
        write_json(draft / "metrics.json", asdict(report) | {"folder": str(out)})
        (draft / "README.md").write_text(_card(report), encoding="utf-8")
    return report


class BackboneWithHead(lightning.LightningModule):
    """Trainable backbone and head: thumbs, uint8 [n, side, side, 3], to logits, float32 [n, outputs]."""

    def __init__(self, backbone: Backbone, head: Head, settings: HeadTraining, finetuning: FinetuneSettings) -> None:
        super().__init__()
        self.backbone: Any = backbone.requires_grad_(True)
        self.head: Any = head.requires_grad_(True)
        self.settings, self.finetuning = settings, finetuning
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, thumbs: Tensor) -> Tensor:
        """See the class."""
        pixels = (thumbs.float().permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        return self.head(pool_features(self.backbone(pixels).float(), self.head.settings.recipe))

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        """See `LightningModule`."""
        thumbs, target, weight, text_target, known = batch
        flipped = torch.rand(len(thumbs), device=thumbs.device) < 0.5
        logits = self(torch.where(flipped[:, None, None, None], thumbs.flip(2), thumbs))
        loss = (F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none") * weight).mean()
        if logits.shape[1] > 1:
            text_loss = F.binary_cross_entropy_with_logits(logits[:, 1], text_target, reduction="none") * known
            loss = loss + TEXT_LOSS_WEIGHT * text_loss.mean()
        return loss

    def configure_optimizers(self) -> Any:
        """See `LightningModule`."""
        parts = [
            {"params": list(self.backbone.parameters()), "lr": self.finetuning.lr},
            {"params": list(self.head.parameters()), "lr": self.settings.lr},
        ]
        optimizer = torch.optim.AdamW(parts, weight_decay=self.settings.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _trainer(
    device: str, blocks: set[type[nn.Module]], finetuning: FinetuneSettings, callbacks: Sequence[lightning.Callback]
) -> lightning.Trainer:
    """Return the trainer. On CUDA every block of the backbone is an FSDP unit, and gradients cannot be clipped."""
    cuda = device == "cuda"
    strategy = FSDPStrategy(auto_wrap_policy=blocks, state_dict_type="full") if cuda else "auto"
    return lightning.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices="auto" if cuda else 1,
        strategy=strategy,
        precision="bf16-mixed" if cuda else "32-true",
        max_epochs=finetuning.epochs,
        callbacks=list(callbacks),
        gradient_clip_val=None if cuda else 1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _loader(
    images: TrainingImages,
    train_set: FeatureSet,
    which: NDArray[np.int64],
    settings: HeadTraining,
    finetuning: FinetuneSettings,
) -> "DataLoader[Any]":
    text_target = torch.from_numpy(train_set.has_text)
    smooth = torch.from_numpy(train_set.human_labeled).float() * settings.label_smoothing
    rows = TensorDataset(
        torch.from_numpy(images.thumbs[which]),
        torch.from_numpy(train_set.target) * (1 - smooth) + 0.5 * smooth,
        torch.from_numpy(class_weights(train_set, settings.positive_prior)),
        text_target.nan_to_num(0.0),
        (~text_target.isnan()).float(),
    )
    generator = torch.Generator().manual_seed(settings.seed)
    return DataLoader(rows, finetuning.batch, shuffle=True, generator=generator, drop_last=len(rows) > finetuning.batch)


@torch.inference_mode()
def _score(
    module: BackboneWithHead, images: TrainingImages, known: FeatureSet, which: NDArray[np.int64]
) -> HeadMetrics:
    module.eval()
    thumbs = images.thumbs[which]
    parts = (torch.from_numpy(thumbs[at : at + _VAL_BATCH]) for at in range(0, len(thumbs), _VAL_BATCH))
    logits = torch.cat([module(part)[:, 0] for part in parts]).double().numpy()
    module.train()
    return head_metrics(known.rows(which), logits)


def _card(report: FinetuneReport) -> str:
    line, val = report.lineage, report.val_metrics
    return f"""# {report.folder.name}

A backbone and the head of stage 1 of roadwork-serve, trained together from {line.model}, weights
{line.backbone or "not known"}, on {"; ".join(line.origin)}. Serve it with `model: FOLDER` of stage 1's engine in a
profile. Check the licences of the initial weights and of the data.

On {val.n} items in {val.groups} validation groups: accuracy {val.accuracy:.3f}, AUC {val.auc:.3f},
log loss {val.log_loss:.3f} ({report.val_metrics_before.log_loss:.3f} before).
{report.steps} steps in {report.seconds:.0f} s.
Data SHA-256 {line.data}; weights {report.fingerprint}; code {line.revision or "not a checkout"}.

    {line.command}
"""
