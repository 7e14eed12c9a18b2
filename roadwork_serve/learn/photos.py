"""A folder of real photos and clips with labels, and what a folder like that can tell.

`manifest.csv` has the columns file, label (roadwork, none), source_repo, path, licence, notes; in the
notes `group=NAME` says what must never be parted, AMBIGUOUS what people could not tell, and `hard
negative` what looks like road work and is none. `clips/frame_labels.csv` has the columns clip, frame,
seconds, label (roadwork, none, unclear).
"""

import csv
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadwork_serve.errors import ConfigError
from roadwork_serve.learn.metrics import Confusion, confusion
from roadwork_serve.learn.rows import Row
from roadwork_serve.learn.samples import About, Sample

CAVEAT = (
    "The sources differ between the classes, so a model can score by telling the source instead of the work: "
    "read the groups and the hard negatives, and do not quote the pooled numbers as the product's accuracy."
)


@dataclass(frozen=True, slots=True)
class ClipAnswer:
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
    clips: tuple[ClipAnswer, ...]


def photo_abouts(folder: Path) -> list[About]:
    """What the folder says of each of its files. Raises ConfigError where it has no manifest or names no file."""
    abouts = [_photo(line) for line in _lines(folder / "manifest.csv", ("file", "label", "licence", "notes"))]
    labels = folder / "clips" / "frame_labels.csv"
    if labels.exists():
        abouts += _clips(_lines(labels, ("clip", "label")))
    for about in abouts:
        if not (folder / about.name).is_file():
            raise ConfigError(f"{folder / about.name} is listed and not there; fetch it or take its line out")
    return abouts


def photo_samples(folder: Path, abouts: Iterable[About]) -> Generator[Sample]:
    """The files themselves, read one by one."""
    return (Sample(about, (folder / about.name).read_bytes()) for about in abouts)


def photo_report(rows: Sequence[Row]) -> PhotoReport:
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
            ClipAnswer(
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


def _by(rows: Sequence[Row], key: Callable[[About], str]) -> dict[str, Confusion]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(key(row.about), []).append(row)
    return {
        name: confusion(np.array([r.about.label for r in part]), np.array([r.said for r in part]))
        for name, part in sorted(parts.items())
    }


def _photo(line: dict[str, str]) -> About:
    notes, source = line["notes"] or "", line.get("source_repo") or "unknown"
    group = re.search(r"\bgroup=(\S+)", notes)
    return About(
        name=line["file"],
        kind="photo",
        label=line["label"] == "roadwork",
        scored="AMBIGUOUS" not in notes,
        group=group[1] if group else source,
        source=source,
        licence=line["licence"],
        hard_negative="hard negative" in notes,
    )


def _clips(lines: list[dict[str, str]]) -> list[About]:
    """A clip is road work if any frame is; it is not scored where no frame is clear."""
    frames: dict[str, set[str]] = {}
    for line in lines:
        frames.setdefault(line["clip"], set()).add(line["label"])
    return [
        About(clip, "clip", label="roadwork" in seen, scored=seen != {"unclear"}, group=f"clip_{Path(clip).stem}")
        for clip, seen in frames.items()
    ]


def _lines(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise ConfigError(f"{path} is not there; --photos takes a folder with a manifest.csv")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise ConfigError(f"{path} has no column {column!r}; add it to its first line")
        lines = list(reader)
    allowed = {"roadwork", "none", "unclear"}
    for number, line in enumerate(lines, 2):
        if line["label"] not in allowed:
            raise ConfigError(
                f"{path}, line {number}: label {line['label']!r}; write one of {', '.join(sorted(allowed))}"
            )
    return lines
