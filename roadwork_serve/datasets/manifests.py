"""A CSV file that lists photos and clips.

Either the columns of `photos`, or file and label (roadwork, none, unclear), and as far as known group, licence, source,
hard_negative (yes or empty), words (yes or no: worth reading; empty where nobody looked) and tags, parted by
semicolons. Paths are from the manifest's folder; other columns are left alone.
"""

import csv
import math
from pathlib import Path

from roadwork_serve.datasets.base import DatasetItem, FileDataset, kind_of
from roadwork_serve.datasets.photos import photo_metadata
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError

NAME = "manifest.csv"
_LABELS = ("roadwork", "none", "unclear")
_WORDS = {"yes": 1.0, "no": 0.0, "": math.nan}


def manifest_dataset(path: Path, spec: str) -> FileDataset:
    """What a manifest lists. Raises ConfigError, with the line to mend."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, lines = tuple(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from None
    if path.name == NAME and {"licence", "notes"} <= set(columns):
        items = [DatasetItem(about, about.name) for about in photo_metadata(path.parent)]
    else:
        for column in ("file", "label"):
            if column not in columns:
                raise ConfigError(f"{path} has no column {column!r}; its first line must name file and label")
        items = [_listed(path, number, line) for number, line in enumerate(lines, 2)]
    if not items:
        raise ConfigError(f"{path} lists nothing")
    return FileDataset(spec, path.parent, tuple(items))


def _listed(path: Path, number: int, line: dict[str, str | None]) -> DatasetItem:
    def said(column: str) -> str:
        return (line.get(column) or "").strip()

    if said("label") not in _LABELS:
        raise ConfigError(f"{path}, line {number}: label {said('label')!r}; write one of {', '.join(_LABELS)}")
    if not said("file"):
        raise ConfigError(f"{path}, line {number}: no file is named; write its path from {path.parent}")
    if said("words") not in _WORDS:
        raise ConfigError(f"{path}, line {number}: words {said('words')!r}; write yes, no or nothing")
    about = SampleMetadata(
        name=said("file"),
        kind=kind_of(said("file")),
        label=said("label") == "roadwork",
        scored=said("label") != "unclear",
        tags=tuple(tag.strip() for tag in said("tags").split(";") if tag.strip()),
        group=said("group"),
        source=said("source"),
        licence=said("licence"),
        hard_negative=said("hard_negative").lower() in ("yes", "true", "1"),
    )
    return DatasetItem(about, about.name, words=_WORDS[said("words")])
