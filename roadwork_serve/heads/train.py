"""Heads of stage 1: from features to a folder that the server loads by its path."""

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from roadwork_serve.atomic_write import check_vacant, replace_folder, write_json
from roadwork_serve.heads.feature_set import FeatureSet, drop_teacher_duplicates
from roadwork_serve.heads.fit import HeadFit, HeadTraining, fit_head
from roadwork_serve.heads.head_metrics import HeadMetrics
from roadwork_serve.heads.model_card import Lineage, lineage, model_card

__all__ = ["HeadReport", "HeadTraining", "train_head"]


@dataclass(frozen=True, slots=True)
class HeadReport:
    """What came of it. held: on groups that were kept to stop by; taught: on the rest. Counts of items: `HeadMetrics.n`.

    by_people: items that people labelled; the others a teacher did. seconds: of training alone.
    """

    folder: Path
    outputs: tuple[str, ...]
    held: HeadMetrics
    taught: HeadMetrics
    items: int
    human_labeled: int
    epochs: int
    best_epoch: int
    seconds: float
    lineage: Lineage


def train_head(
    features: FeatureSet,
    settings: HeadTraining,
    out: Path,
    *,
    replace: bool = False,
    command: str | None = None,
) -> HeadReport:
    """Train a head and write its folder, whole or not at all: head.json, head.safetensors, README.md, metrics.json.

    replace: take the place of a folder that is there; a server that has read it keeps what it read. command: for the
    card; that of this process by default. Raises ConfigError where the folder is there, before anything is trained, or
    where the groups do not allow a part to be held.
    """
    check_vacant(out, replace)
    fit = fit_head(features, settings)
    report = _report(
        features, fit, settings, out, shlex.join(["roadwork", *sys.argv[1:]]) if command is None else command
    )
    with replace_folder(out, replace) as draft:
        fit.head.save(draft)
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
        held=fit.held,
        taught=fit.taught,
        items=len(items),
        human_labeled=sum(bool(people) for people in items.values()),
        epochs=fit.epochs,
        best_epoch=fit.best_epoch,
        seconds=fit.seconds,
        lineage=lineage(features, settings, command),
    )
