"""Results on a folder of real photos and clips, by group, source and licence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.metrics import Confusion, confusion
from roadwork_serve.evaluation.rows import EvaluationRow

CAVEAT = (
    "The sources differ between the classes, so a model can score by telling the source instead of the work: "
    "read the groups and the hard negatives, and do not quote the pooled numbers as the product's accuracy."
)


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What was said of one clip. label: None where every frame is unclear."""

    name: str
    label: bool | None
    probability: float
    said: bool
    exit_stage: str


@dataclass(frozen=True, slots=True)
class PhotoReport:
    """Stills by group, source and licence; hard negatives and clips one by one. Unscored rows are in none of them."""

    caveat: str
    by_group: dict[str, Confusion]
    by_source: dict[str, Confusion]
    by_licence: dict[str, Confusion]
    hard_negatives: int
    hard_negatives_said_roadwork: tuple[str, ...]
    clips: tuple[ClipResult, ...]


def photo_report(rows: Sequence[EvaluationRow]) -> PhotoReport:
    """What the rows of such a folder tell, in parts that can be compared."""
    stills = [row for row in rows if row.about.kind == "photo" and row.about.scored]
    hard = [row for row in stills if row.about.hard_negative]
    return PhotoReport(
        caveat=CAVEAT,
        by_group=_by(stills, lambda about: about.group),
        by_source=_by(stills, lambda about: about.source),
        by_licence=_by(stills, lambda about: about.licence),
        hard_negatives=len(hard),
        hard_negatives_said_roadwork=tuple(row.about.name for row in hard if row.said),
        clips=tuple(
            ClipResult(
                row.about.name,
                row.about.label if row.about.scored else None,
                row.probability,
                row.said,
                row.exit_stage,
            )
            for row in rows
            if row.about.kind == "clip"
        ),
    )


def _by(rows: Sequence[EvaluationRow], key: Callable[[SampleMetadata], str]) -> dict[str, Confusion]:
    parts: dict[str, list[EvaluationRow]] = {}
    for row in rows:
        parts.setdefault(key(row.about), []).append(row)
    return {
        name: confusion(np.array([r.about.label for r in part]), np.array([r.said for r in part]))
        for name, part in sorted(parts.items())
    }
