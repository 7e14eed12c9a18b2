"""A folder of labelled real photos and clips.

`manifest.csv` has the columns file, label (roadwork, none), source_repo, path, licence and notes. In the notes,
`group=NAME` names files that must never be split, AMBIGUOUS marks items that annotators could not decide, and
`hard negative` marks items that look like road work and are none. `clips/frame_labels.csv` has the columns clip,
frame, seconds and label (roadwork, none, unclear).
"""

import re
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from roadwork_serve.csv_files import CsvRow, read_csv
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError


def photo_metadata(folder: Path) -> list[SampleMetadata]:
    """Return the metadata of every file. Raises ConfigError when the manifest or a listed file is missing."""
    found = [_photo(row) for row in _rows(folder / "manifest.csv", ("file", "label", "licence", "notes"))]
    labels = folder / "clips" / "frame_labels.csv"
    if labels.exists():
        found += _clips(_rows(labels, ("clip", "label")))
    for each in found:
        if not (folder / each.name).is_file():
            raise ConfigError(f"{folder / each.name} is listed but missing; fetch it or delete its line")
    return found


def photo_samples(folder: Path, metadata: Iterable[SampleMetadata]) -> Generator[Sample]:
    """Yield the files, read one at a time."""
    return (Sample(each, (folder / each.name).read_bytes()) for each in metadata)


def _photo(row: CsvRow) -> SampleMetadata:
    notes, source = row["notes"], row["source_repo"] or "unknown"
    group = re.search(r"\bgroup=(\S+)", notes)
    return SampleMetadata(
        name=row["file"],
        kind="photo",
        label=row["label"] == "roadwork",
        ignore="AMBIGUOUS" in notes,
        group=group[1] if group else source,
        source=source,
        licence=row["licence"],
        hard_negative="hard negative" in notes,
    )


def _clips(rows: Iterable[CsvRow]) -> list[SampleMetadata]:
    """Label a clip roadwork if any frame is; ignore it if every frame is unclear."""
    frames: dict[str, set[str]] = {}
    for row in rows:
        frames.setdefault(row["clip"], set()).add(row["label"])
    return [
        SampleMetadata(
            clip, "clip", label="roadwork" in labels, ignore=labels == {"unclear"}, group=f"clip_{Path(clip).stem}"
        )
        for clip, labels in frames.items()
    ]


def _rows(path: Path, columns: Sequence[str]) -> tuple[CsvRow, ...]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; --photos takes a folder with a manifest.csv")
    rows = read_csv(path, required=columns).rows
    for row in rows:
        row.choice("label", ("none", "roadwork", "unclear"))
    return rows
