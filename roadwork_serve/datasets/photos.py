"""A folder of real photos and clips with labels, and what a folder like that can tell.

`manifest.csv` has the columns file, label (roadwork, none), source_repo, path, licence, notes; in the
notes `group=NAME` says what must never be parted, AMBIGUOUS what people could not tell, and `hard
negative` what looks like road work and is none. `clips/frame_labels.csv` has the columns clip, frame,
seconds, label (roadwork, none, unclear).
"""

import csv
import re
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError


def photo_metadata(folder: Path) -> list[SampleMetadata]:
    """What the folder says of each of its files. Raises ConfigError where it has no manifest or names no file."""
    abouts = [_photo(line) for line in _lines(folder / "manifest.csv", ("file", "label", "licence", "notes"))]
    labels = folder / "clips" / "frame_labels.csv"
    if labels.exists():
        abouts += _clips(_lines(labels, ("clip", "label")))
    for about in abouts:
        if not (folder / about.name).is_file():
            raise ConfigError(f"{folder / about.name} is listed and not there; fetch it or take its line out")
    return abouts


def photo_samples(folder: Path, abouts: Iterable[SampleMetadata]) -> Generator[Sample]:
    """The files themselves, read one by one."""
    return (Sample(about, (folder / about.name).read_bytes()) for about in abouts)


def _photo(line: dict[str, str]) -> SampleMetadata:
    notes, source = line["notes"] or "", line.get("source_repo") or "unknown"
    group = re.search(r"\bgroup=(\S+)", notes)
    return SampleMetadata(
        name=line["file"],
        kind="photo",
        label=line["label"] == "roadwork",
        scored="AMBIGUOUS" not in notes,
        group=group[1] if group else source,
        source=source,
        licence=line["licence"],
        hard_negative="hard negative" in notes,
    )


def _clips(lines: list[dict[str, str]]) -> list[SampleMetadata]:
    """A clip is road work if any frame is; it is not scored where no frame is clear."""
    frames: dict[str, set[str]] = {}
    for line in lines:
        frames.setdefault(line["clip"], set()).add(line["label"])
    return [
        SampleMetadata(
            clip, "clip", label="roadwork" in seen, scored=seen != {"unclear"}, group=f"clip_{Path(clip).stem}"
        )
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
