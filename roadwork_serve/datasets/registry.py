"""One spelling for every labelled data set."""

from importlib.metadata import entry_points
from pathlib import Path

from roadwork_serve.datasets.base import Dataset
from roadwork_serve.datasets.coco import coco_dataset
from roadwork_serve.datasets.folders import CLASSES, folder_dataset
from roadwork_serve.datasets.manifests import NAME, manifest_dataset
from roadwork_serve.errors import ConfigError

# Packages add kinds of data sets of their own: an entry point NAME opens NAME:..., and gets all of it as text.
_GROUP = "roadwork_serve.datasets"
SPELLINGS = (
    "a folder with roadwork/ and none/ or with a manifest.csv, a file of columns file,label (CSV), natix:FILE.parquet, "
    "coco:ANNOTATIONS.json or scenes:N:SEED"
)


def open_dataset(spec: str) -> Dataset:
    """The data set that a PATH_OR_SPEC names. Raises ConfigError where it names none, or what is there is none."""
    kind, colon, rest = spec.partition(":")
    if colon and kind in ("natix", "coco"):
        path = Path(rest).expanduser()
        if not path.exists():
            raise ConfigError(f"{spec}: there is no {path}")
        if kind == "coco":
            return coco_dataset(path, spec)
        from roadwork_serve.datasets.natix import natix_dataset

        return natix_dataset(path, spec)
    if colon and (opener := entry_points(group=_GROUP, name=kind)):
        return next(iter(opener)).load()(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        if (path / NAME).is_file():
            return manifest_dataset(path / NAME, spec)
        if any((path / label).is_dir() for label in CLASSES):
            return folder_dataset(path, spec)
        raise ConfigError(f"{spec} has no {NAME} and no folders roadwork and none; data is {SPELLINGS}")
    if path.is_file() and path.suffix.lower() == ".csv":
        return manifest_dataset(path, spec)
    if path.is_file():
        raise ConfigError(f"{spec} is a file of no known kind; data is {SPELLINGS}")
    raise ConfigError(f"there is no {spec}; data is {SPELLINGS}")
