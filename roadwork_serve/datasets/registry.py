"""Opens a dataset by its URI."""

from importlib.metadata import entry_points
from pathlib import Path

from roadwork_serve.datasets.base import Dataset
from roadwork_serve.datasets.coco import coco_dataset
from roadwork_serve.datasets.folders import folder_dataset
from roadwork_serve.datasets.manifests import NAME, manifest_dataset
from roadwork_serve.errors import ConfigError
from roadwork_serve.printable import writable
from roadwork_serve.profiles.task import Task, default_task
from roadwork_serve.table_files import is_parquet

# Entry points add dataset types: the entry point NAME opens NAME:..., and receives the whole URI.
_GROUP = "roadwork_serve.datasets"
_CSV = (".csv", ".tsv", ".tab", ".txt")  # spreadsheets save text separated by tabs as .txt
SPELLINGS = (
    "a folder with roadwork/ and none/ or with a manifest.csv, a CSV file with the columns file,label, "
    "natix:FILE.parquet, coco:ANNOTATIONS.json or scenes:N:SEED"
)


def open_dataset(uri: str, task: Task | None = None) -> Dataset:
    """Open the dataset at a path or URI.

    Args:
        uri: The path or URI.
        task: The task that names the labels in folders and manifests; active road work by default.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    task = task or default_task()
    kind, colon, rest = uri.partition(":")
    spelled, uri = uri, writable(uri)
    if colon and kind in ("natix", "coco"):
        path = Path(rest).expanduser()
        if not path.exists():
            raise ConfigError(f"{uri}: {path} does not exist")
        if kind == "coco":
            return coco_dataset(path, uri)
        from roadwork_serve.datasets.natix import natix_dataset

        return natix_dataset(path, uri)
    if colon and (opener := entry_points(group=_GROUP, name=kind)):
        return next(iter(opener)).load()(spelled)
    path = Path(spelled).expanduser()
    if path.is_dir():
        if (path / NAME).is_file():
            return manifest_dataset(path / NAME, uri, task)
        if any((path / label).is_dir() for label in task.labels):
            return folder_dataset(path, uri, task)
        raise ConfigError(f"{uri} has no {NAME} and no folders {' and '.join(task.labels)}; a dataset is {SPELLINGS}")
    if path.is_file() and path.suffix.lower() in _CSV:
        return manifest_dataset(path, uri, task)
    if path.is_file():
        if is_parquet(path.open("rb")):
            from roadwork_serve.datasets.natix import natix_dataset

            return natix_dataset(path, uri)
        raise ConfigError(f"{uri} is a file of an unknown type; a dataset is {SPELLINGS}")
    raise ConfigError(f"{uri} does not exist; a dataset is {SPELLINGS}")
