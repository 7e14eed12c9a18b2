"""Opens a dataset by its URI."""

from importlib.metadata import entry_points
from pathlib import Path

from roadwork_serve.datasets.base import Dataset
from roadwork_serve.datasets.coco import coco_dataset
from roadwork_serve.datasets.folders import CLASSES, folder_dataset
from roadwork_serve.datasets.manifests import NAME, manifest_dataset
from roadwork_serve.errors import ConfigError

# Entry points add dataset types: the entry point NAME opens NAME:..., and receives the whole URI.
_GROUP = "roadwork_serve.datasets"
SPELLINGS = (
    "a folder with roadwork/ and none/ or with a manifest.csv, a CSV file with the columns file,label, "
    "natix:FILE.parquet, coco:ANNOTATIONS.json or scenes:N:SEED"
)


def open_dataset(uri: str) -> Dataset:
    """Open the dataset at a path or URI. Raises ConfigError when there is none, or it cannot be read."""
    kind, colon, rest = uri.partition(":")
    if colon and kind in ("natix", "coco"):
        path = Path(rest).expanduser()
        if not path.exists():
            raise ConfigError(f"{uri}: {path} does not exist")
        if kind == "coco":
            return coco_dataset(path, uri)
        from roadwork_serve.datasets.natix import natix_dataset

        return natix_dataset(path, uri)
    if colon and (opener := entry_points(group=_GROUP, name=kind)):
        return next(iter(opener)).load()(uri)
    path = Path(uri).expanduser()
    if path.is_dir():
        if (path / NAME).is_file():
            return manifest_dataset(path / NAME, uri)
        if any((path / label).is_dir() for label in CLASSES):
            return folder_dataset(path, uri)
        raise ConfigError(f"{uri} has no {NAME} and no folders roadwork and none; a dataset is {SPELLINGS}")
    if path.is_file() and path.suffix.lower() == ".csv":
        return manifest_dataset(path, uri)
    if path.is_file():
        raise ConfigError(f"{uri} is a file of an unknown type; a dataset is {SPELLINGS}")
    raise ConfigError(f"{uri} does not exist; a dataset is {SPELLINGS}")
