"""Backbone and head trained together, end to end: on GPUs sharded by FSDP, on a CPU as it is.

The checkpoint that comes of it is a folder in the layout of `from_pretrained` with its head beside the weights.
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
from transformers import DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTLayer

from roadwork_serve import media
from roadwork_serve.atomic_write import check_vacant, replace_folder, write_json
from roadwork_serve.datasets.base import CorruptItem, Dataset
from roadwork_serve.engines.features import PIXEL_MEAN, PIXEL_STD, Head, pool_features
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.loading import load_pretrained
from roadwork_serve.errors import ConfigError, MediaError
from roadwork_serve.heads.extract import MAX_SKIPPED
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.heads.fit import WORDS_SHARE, HeadTraining, class_weights, deterministic, new_head
from roadwork_serve.heads.head_metrics import HeadMetrics, head_metrics
from roadwork_serve.heads.holdout import group_split
from roadwork_serve.heads.model_card import Lineage, lineage
from roadwork_serve.profiles.profile import MediaLimits

_LOOK = 32  # thumbs at once where nothing is learned


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """What end-to-end training adds to the settings of a head. lr: of the backbone; that of the head is its own."""

    epochs: int = 3
    batch: int = 32
    lr: float = 2e-5


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImages:
    """thumbs: uint8 [n, side, side, 3], in memory. known: the same rows, with no features yet."""

    thumbs: NDArray[np.uint8]
    known: FeatureSet
    skipped: tuple[CorruptItem, ...]


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """held: on groups that were not learned from, before any training and after it. steps: of the optimiser."""

    folder: Path
    before: HeadMetrics
    held: HeadMetrics
    taught: HeadMetrics
    steps: int
    seconds: float
    fingerprint: str
    unfreezing: FinetuneSettings
    lineage: Lineage


def load_images(datasets: Sequence[Dataset], limits: MediaLimits, may_skip: int = MAX_SKIPPED) -> TrainingImages:
    """What stage 1 sees of every item that people could tell. Raises ConfigError when too many are damaged."""
    thumbs, rows, skipped = list[NDArray[np.uint8]](), list[tuple[Any, int]](), list[CorruptItem]()
    for dataset in datasets:
        wanted = [each for each in dataset.listed() if each.about.scored]
        for each, sample in zip(wanted, dataset.samples(wanted), strict=True):
            try:
                if isinstance(sample, CorruptItem):
                    raise MediaError(sample.why)
                seen = media.read(sample.data, limits).thumbs
            except MediaError as error:
                skipped.append(CorruptItem(each.about.name, str(error)))
                if len(skipped) > may_skip:
                    raise ConfigError(f"more than {may_skip} files cannot be used, the last {skipped[-1]}") from None
                continue
            thumbs.append(seen)
            rows += [(each, len(seen))] * len(seen)
    if not thumbs:
        raise ConfigError("none of the data can be used")
    known = FeatureSet(
        model="",
        recipe="cls",
        x=np.zeros((len(rows), 0), np.float32),
        target=np.array([each.about.label for each, _ in rows], np.float32),
        human_labeled=np.array([not each.about.taught for each, _ in rows], bool),
        weight=np.array([1 / count for _, count in rows], np.float32),
        words=np.array([each.words for each, _ in rows], np.float32),
        group=tuple(each.about.group for each, _ in rows),
        name=tuple(each.about.name for each, _ in rows),
        about=tuple(each.about for each, _ in rows),
        origin=tuple(dataset.spec for dataset in datasets),
    )
    return TrainingImages(np.concatenate(thumbs), known, tuple(skipped))


def finetune(
    model: str,
    shown: TrainingImages,
    settings: HeadTraining,
    unfreezing: FinetuneSettings,
    out: Path,
    *,
    replace_out: bool = False,
    device: str | None = None,
    start: Head | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> FinetuneReport:
    """Train a backbone from a folder or hub id together with its head, and write both, whole or not at all.

    device: cuda shards over all GPUs of this machine; by default where there are any. start: the head to start from, a
    new one by default. callbacks: of Lightning, who watch. Raises ConfigError, ModelError.
    """
    check_vacant(out, replace_out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    backbone = load_pretrained(DINOv3ViTModel, model, dtype="float32", device="cpu", threads=settings.threads)
    recipe = settings.recipe or "cls+mean+max"
    known = replace(
        shown.known, model=model, recipe=recipe, backbone=fingerprint(model),
        x=np.zeros((len(shown.known), backbone.config.hidden_size * len(recipe.split("+"))), np.float32),
    )  # fmt: skip
    parts = group_split(known.together, known.target >= 0.5, settings.held, settings.seed)
    taught = known.rows(parts.train)
    began = time.monotonic()
    with deterministic(settings, deterministic=device == "cpu"):
        both = BackboneWithHead(backbone, start or new_head(taught, settings), settings, unfreezing)
        before = _score(both, shown, known, parts.held)
        trainer = _trainer(device, unfreezing, callbacks)
        trainer.fit(both, _loader(shown, taught, parts.train, settings, unfreezing))
        weights = trainer.strategy.lightning_module_state_dict()
        seconds, steps = time.monotonic() - began, trainer.global_step
        if not trainer.is_global_zero:
            raise SystemExit(0)
        whole = BackboneWithHead(DINOv3ViTModel(backbone.config), Head(both.head.settings), settings, unfreezing)
        whole.load_state_dict({name: weight.detach().cpu().clone() for name, weight in weights.items()})
        whole.eval().requires_grad_(False)
        held, learned = (_score(whole, shown, known, part) for part in (parts.held, parts.train))
    with replace_folder(out, replace_out) as draft:
        whole.backbone.save_pretrained(draft)
        mark = fingerprint(str(draft))
        whole.head.settings = replace(whole.head.settings, backbone=mark)
        whole.head.save(draft)
        told = lineage(known, settings, shlex.join(["roadwork", *sys.argv[1:]]))
        report = FinetuneReport(out, before, held, learned, steps, seconds, mark, unfreezing, told)
        write_json(draft / "metrics.json", asdict(report) | {"folder": str(out)})
        (draft / "README.md").write_text(_card(report), encoding="utf-8")
    return report


class BackboneWithHead(lightning.LightningModule):
    """Thumbs uint8 [n, side, side, 3] -> logits float32 [n, outputs of the head], all of it to be learned."""

    def __init__(self, backbone: nn.Module, head: Head, settings: HeadTraining, unfreezing: FinetuneSettings) -> None:
        super().__init__()
        self.backbone: Any = backbone.requires_grad_(True)
        self.head: Any = head.requires_grad_(True)
        self.settings, self.unfreezing = settings, unfreezing
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, thumbs: Tensor) -> Tensor:
        """See the class."""
        pixels = (thumbs.float().permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        tokens = self.backbone(pixels).last_hidden_state.float()
        return self.head(pool_features(tokens, self.backbone.config.num_register_tokens, self.head.settings.recipe))

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        thumbs, target, weight, words, known = batch
        turned = torch.rand(len(thumbs), device=thumbs.device) < 0.5
        logits = self(torch.where(turned[:, None, None, None], thumbs.flip(2), thumbs))
        loss = (F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none") * weight).mean()
        if logits.shape[1] > 1:
            heard = F.binary_cross_entropy_with_logits(logits[:, 1], words, reduction="none") * known
            loss = loss + WORDS_SHARE * heard.mean()
        return loss

    def configure_optimizers(self) -> Any:
        parts = [
            {"params": list(self.backbone.parameters()), "lr": self.unfreezing.lr},
            {"params": list(self.head.parameters()), "lr": self.settings.lr},
        ]
        stepper = torch.optim.AdamW(parts, weight_decay=self.settings.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, steps)
        return {"optimizer": stepper, "lr_scheduler": {"scheduler": slower, "interval": "step"}}


def _trainer(device: str, unfreezing: FinetuneSettings, callbacks: Sequence[lightning.Callback]) -> lightning.Trainer:
    """On CUDA every layer of the backbone is a shard; norms cannot be clipped there."""
    cuda = device == "cuda"
    strategy = FSDPStrategy(auto_wrap_policy={DINOv3ViTLayer}, state_dict_type="full") if cuda else "auto"
    return lightning.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices="auto" if cuda else 1,
        strategy=strategy,
        precision="bf16-mixed" if cuda else "32-true",
        max_epochs=unfreezing.epochs,
        callbacks=list(callbacks),
        gradient_clip_val=None if cuda else 1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _loader(
    shown: TrainingImages,
    taught: FeatureSet,
    which: NDArray[np.int64],
    settings: HeadTraining,
    unfreezing: FinetuneSettings,
) -> "DataLoader[Any]":
    words = torch.from_numpy(taught.words)
    smooth = torch.from_numpy(taught.human_labeled).float() * settings.smoothing
    rows = TensorDataset(
        torch.from_numpy(shown.thumbs[which]),
        torch.from_numpy(taught.target) * (1 - smooth) + 0.5 * smooth,
        torch.from_numpy(class_weights(taught, settings.balance)),
        words.nan_to_num(0.0),
        (~words.isnan()).float(),
    )
    chance = torch.Generator().manual_seed(settings.seed)
    return DataLoader(rows, unfreezing.batch, shuffle=True, generator=chance, drop_last=len(rows) > unfreezing.batch)


@torch.inference_mode()
def _score(both: BackboneWithHead, shown: TrainingImages, known: FeatureSet, which: NDArray[np.int64]) -> HeadMetrics:
    both.eval()
    thumbs = shown.thumbs[which]
    parts = (torch.from_numpy(thumbs[at : at + _LOOK]) for at in range(0, len(thumbs), _LOOK))
    logits = torch.cat([both(part)[:, 0] for part in parts]).double().numpy()
    both.train()
    return head_metrics(known.rows(which), logits)


def _card(report: FinetuneReport) -> str:
    line, held = report.lineage, report.held
    return f"""# {report.folder.name}

A backbone and the head of stage 1 of roadwork-serve, trained together from {line.model}, weights
{line.backbone or "not known"}, on {"; ".join(line.origin)}. Serve it with `model: FOLDER` of stage 1's engine in a
profile. Mind the licences of the weights it began with and of the data.

On {held.n} items in {held.groups} groups that were not learned from: accuracy {held.accuracy:.3f}, AUC {held.auc:.3f},
log loss {held.log_loss:.3f} ({report.before.log_loss:.3f} before). {report.steps} steps in {report.seconds:.0f} s.
Data SHA-256 {line.data}; weights {report.fingerprint}; code {line.revision or "not a checkout"}.

    {line.command}
"""
