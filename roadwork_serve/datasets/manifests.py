"""A dataset described by a CSV file.

The file has the columns of `photos`, or at least file and label (roadwork, none, unclear, or the labels of another
task). Optional columns: group, licence, source, hard_negative (yes or empty), has_text (yes, no or empty: whether the
picture shows text worth reading) and tags (separated by semicolons). Paths are relative to the folder of the file;
other columns are ignored.
"""

import math
from pathlib import Path

from roadwork_serve.csv_files import CsvRow, read_csv
from roadwork_serve.datasets.base import DatasetItem, FileDataset, kind_of
from roadwork_serve.datasets.photos import photos_of
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.local_files import written_path
from roadwork_serve.profiles.task import Task
from roadwork_serve.schema import UNCLEAR

NAME = "manifest.csv"
_HAS_TEXT = {"yes": 1.0, "no": 0.0, "": math.nan}


def manifest_dataset(path: Path, uri: str, task: Task) -> FileDataset:
    """Open the dataset of a manifest. Raises ConfigError, naming the line to correct."""
    table = read_csv(path, required=("file", "label"))
    if path.name == NAME and {"licence", "notes"} <= set(table.columns):
        items = [DatasetItem(metadata, metadata.name) for metadata in photos_of(table, path.parent, task)]
    else:
        items = [_item(row, task) for row in table.rows]
    if not items:
        raise ConfigError(f"{path} lists no files; add a line for each")
    return FileDataset(uri, path.parent, tuple(items))


def _item(row: CsvRow, task: Task) -> DatasetItem:
    label = row.choice("label", (*task.labels, UNCLEAR))
    file = written_path(row.path.parent, row.required("file", f"write its path from {row.path.parent}"))
    metadata = SampleMetadata(
        name=file,
        kind=kind_of(file),
        label=label == task.positive,
        ignore=label == UNCLEAR,
        tags=tuple(tag.strip() for tag in row["tags"].split(";") if tag.strip()),
        group=row["group"],
        source=row["source"],
        licence=row["licence"],
        hard_negative=row["hard_negative"].lower() in ("yes", "true", "1"),
    )
    return DatasetItem(metadata, metadata.name, has_text=_HAS_TEXT[row.choice("has_text", _HAS_TEXT)])
