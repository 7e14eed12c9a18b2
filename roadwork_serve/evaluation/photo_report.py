"""Results on a folder of real photos and clips, by group, source and licence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.metrics import Confusion, confusion
from roadwork_serve.evaluation.rows import EvaluationRow

CAVEAT = (
    "The sources differ between the classes, so a model can score by recognising the source instead of the road work: "
    "read the groups and the hard negatives, and do not quote the pooled numbers as the product's accuracy."
)


@dataclass(frozen=True, slots=True)
class ClipResult:
    """The verdict on one clip."""

    name: str
    #: None when every frame is unclear.
    label: bool | None
    probability: float
    predicted_label: bool
    exit_stage: str


@dataclass(frozen=True, slots=True)
class PhotoReport:
    """Photos by group, source and licence, then hard negatives and clips one by one. Ignored rows are left out."""

    caveat: str
    by_group: dict[str, Confusion]
    by_source: dict[str, Confusion]
    by_licence: dict[str, Confusion]
    #: Number of hard negatives.
    hard_negatives: int
    #: Names of the hard negatives that were classified as road work.
    hard_negative_false_positives: tuple[str, ...]
    clips: tuple[ClipResult, ...]


def photo_report(rows: Sequence[EvaluationRow]) -> PhotoReport:
    """Break down the rows of a photo folder into comparable parts."""
    stills = [row for row in rows if row.metadata.kind == "photo" and not row.metadata.ignore]
    hard = [row for row in stills if row.metadata.hard_negative]
    return PhotoReport(
        caveat=CAVEAT,
        by_group=_by(stills, lambda metadata: metadata.group),
        by_source=_by(stills, lambda metadata: metadata.source),
        by_licence=_by(stills, lambda metadata: metadata.licence),
        hard_negatives=len(hard),
        hard_negative_false_positives=tuple(row.metadata.name for row in hard if row.predicted_label),
        clips=tuple(
            ClipResult(
                row.metadata.name,
                None if row.metadata.ignore else row.metadata.label,
                row.probability,
                row.predicted_label,
                row.exit_stage,
            )
            for row in rows
            if row.metadata.kind == "clip"
        ),
    )


def _by(rows: Sequence[EvaluationRow], key: Callable[[SampleMetadata], str]) -> dict[str, Confusion]:
    parts: dict[str, list[EvaluationRow]] = {}
    for row in rows:
        parts.setdefault(key(row.metadata), []).append(row)
    return {
        name: confusion(np.array([r.metadata.label for r in part]), np.array([r.predicted_label for r in part]))
        for name, part in sorted(parts.items())
    }
