"""A folder of labelled real photos and clips.

`manifest.csv` has the columns file, label (roadwork, none, unclear or objects), source_repo, path, licence, notes and,
if it wants, group. Rows labelled objects show things for a detector, and are left out. In the notes, AMBIGUOUS marks
items that annotators could not decide, `hard negative` items that look like road work and are none, and `tier=NAME` is
kept as a tag; `group=NAME`, or the column group, names files that must never be split. `clips/frame_labels.csv` has the
columns clip, frame, seconds and label (roadwork, none, unclear).
"""

import re
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from roadwork_serve.csv_files import CsvRow, CsvTable, read_csv
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.local_files import written_path
from roadwork_serve.profiles.task import Task, default_task
from roadwork_serve.schema import UNCLEAR

_OBJECTS = "objects"


def photo_metadata(folder: Path, task: Task | None = None) -> list[SampleMetadata]:
    """Return the metadata of every labelled file. Raises ConfigError when the manifest or such a file is missing."""
    path = folder / "manifest.csv"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; --photos takes a folder with a manifest.csv")
    return photos_of(read_csv(path, required=("file", "label", "licence", "notes")), folder, task or default_task())


def photos_of(manifest: CsvTable, folder: Path, task: Task) -> list[SampleMetadata]:
    """Return the metadata of the files of a manifest in a folder, and of the folder's labelled clips."""
    names = (task.negative, task.positive, UNCLEAR)
    rows = _checked(manifest.rows, (*names, _OBJECTS))
    found = [_photo(row, task) for row in rows if row["label"] != _OBJECTS]
    labels = folder / "clips" / "frame_labels.csv"
    if labels.exists():
        found += _clips(_checked(read_csv(labels, required=("clip", "label")).rows, names), folder, task)
    for each in found:
        if not (folder / each.name).is_file():
            raise ConfigError(f"{folder / each.name} is listed but missing; fetch it or delete its line")
    return found


def photo_samples(folder: Path, metadata: Iterable[SampleMetadata]) -> Generator[Sample]:
    """Yield the files, read one at a time."""
    return (Sample(each, (folder / each.name).read_bytes()) for each in metadata)


def _photo(row: CsvRow, task: Task) -> SampleMetadata:
    notes, source = row["notes"], row["source_repo"] or "unknown"
    group, tier = row["group"] or _noted("group", notes), _noted("tier", notes)
    return SampleMetadata(
        name=written_path(row.path.parent, row["file"]),
        kind="photo",
        label=row["label"] == task.positive,
        ignore=row["label"] == UNCLEAR or "AMBIGUOUS" in notes,
        tags=(f"tier={tier}",) if tier else (),
        group=group or source,
        source=source,
        licence=row["licence"],
        hard_negative="hard negative" in notes,
    )


def _noted(name: str, notes: str) -> str:
    found = re.search(rf"\b{name}=([^\s;]+)", notes)
    return found[1] if found else ""


def _clips(rows: Iterable[CsvRow], folder: Path, task: Task) -> list[SampleMetadata]:
    """Give a clip the positive label if any frame has it; ignore it if every frame is unclear."""
    frames: dict[str, set[str]] = {}
    for row in rows:
        frames.setdefault(written_path(folder, row["clip"]), set()).add(row["label"])
    return [
        SampleMetadata(
            clip, "clip", label=task.positive in labels, ignore=labels == {UNCLEAR}, group=f"clip_{Path(clip).stem}"
        )
        for clip, labels in frames.items()
    ]


def _checked(rows: tuple[CsvRow, ...], labels: Sequence[str]) -> tuple[CsvRow, ...]:
    for row in rows:
        row.choice("label", labels)
    return rows
