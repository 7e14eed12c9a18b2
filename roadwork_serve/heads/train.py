"""Trains a head of stage 1 and writes it to a folder that the server can load."""

import shlex
import sys
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_fields
from pathlib import Path

from roadwork_serve.atomic_write import check_vacant, replace_folder, write_json
from roadwork_serve.engines.patch_head import PatchHead
from roadwork_serve.heads.feature_set import FeatureSet, drop_teacher_duplicates
from roadwork_serve.heads.fit import HeadFit, HeadTraining, fit_head
from roadwork_serve.heads.head_metrics import HeadMetrics
from roadwork_serve.heads.model_card import Lineage, lineage, model_card
from roadwork_serve.heads.patches import PatchReport
from roadwork_serve.printable import writable

__all__ = ["HeadReport", "HeadTraining", "train_head"]


@dataclass(frozen=True, slots=True)
class HeadReport:
    """The outcome of training a head; written as metrics.json."""

    folder: Path
    outputs: tuple[str, ...]
    #: On the validation groups, which early stopping used; slightly optimistic.
    val_metrics: HeadMetrics
    train_metrics: HeadMetrics
    #: Number of items; a clip counts once.
    items: int
    #: Of these, items with a human label; the others have a teacher's.
    human_labeled: int
    epochs: int
    best_epoch: int
    #: Training time alone.
    seconds: float
    lineage: Lineage
    #: Of the patch head beside it, if there is one.
    patches: PatchReport | None = None


def train_head(
    features: FeatureSet,
    settings: HeadTraining,
    out: Path,
    *,
    replace: bool = False,
    command: str | None = None,
    patches: tuple[PatchHead, PatchReport] | None = None,
) -> HeadReport:
    """Train a head and write its folder atomically: head.json, head.safetensors, README.md, metrics.json.

    Args:
        features: What to train on.
        settings: How to train.
        out: The folder to write.
        replace: Overwrite an existing folder; a server that has loaded it is not affected.
        command: Recorded in the model card; the command line of this process by default.
        patches: A patch head to write beside it, and what it was trained on.

    Raises:
        ConfigError: The folder exists (raised before training), or the groups do not allow a validation split.
    """
    check_vacant(out, replace)
    fit = fit_head(features, settings)
    report = _report(
        features, fit, settings, out, writable(shlex.join(["roadwork", *sys.argv[1:]])) if command is None else command
    )
    with replace_folder(out, replace) as draft:
        fit.head.save(draft)
        if patches is not None:
            patches[0].save(draft)
            report = replace_fields(report, patches=patches[1])
        write_json(draft / "metrics.json", asdict(report) | {"folder": str(out)})
        (draft / "README.md").write_text(
            model_card(drop_teacher_duplicates(features), settings, fit, report.lineage, out.name), encoding="utf-8"
        )
    return report


def _report(features: FeatureSet, fit: HeadFit, settings: HeadTraining, out: Path, command: str) -> HeadReport:
    items = dict(zip(features.name, features.human_labeled, strict=True))
    return HeadReport(
        folder=out,
        outputs=fit.head.settings.outputs,
        val_metrics=fit.val_metrics,
        train_metrics=fit.train_metrics,
        items=len(items),
        human_labeled=sum(bool(people) for people in items.values()),
        epochs=fit.epochs,
        best_epoch=fit.best_epoch,
        seconds=fit.seconds,
        lineage=lineage(features, settings, command),
    )
