"""One spelling for every labelled data set."""

from pathlib import Path

from roadwork_serve.errors import ConfigError
from roadwork_serve.learn.coco import coco_dataset
from roadwork_serve.learn.folders import CLASSES, folder_dataset
from roadwork_serve.learn.listing import Dataset
from roadwork_serve.learn.manifests import NAME, manifest_dataset
from roadwork_serve.learn.rendered import Rendered

SPELLINGS = (
    "a folder with roadwork/ and none/ or with a manifest.csv, a file of columns file,label (CSV), natix:FILE.parquet, "
    "coco:ANNOTATIONS.json or scenes:N:SEED"
)


def open_dataset(spec: str) -> Dataset:
    """The data set that a PATH_OR_SPEC names. Raises ConfigError where it names none, or what is there is none."""
    kind, colon, rest = spec.partition(":")
    if colon and kind == "scenes":
        return _scenes(spec, rest)
    if colon and kind in ("natix", "coco"):
        path = Path(rest).expanduser()
        if not path.exists():
            raise ConfigError(f"{spec}: there is no {path}")
        if kind == "coco":
            return coco_dataset(path, spec)
        from roadwork_serve.learn.natix import natix_dataset

        return natix_dataset(path, spec)
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


def _scenes(spec: str, rest: str) -> Rendered:
    count, _, seed = rest.partition(":")
    if not count.isdecimal() or not int(count) or not (seed or "1").isdecimal():
        raise ConfigError(f"{spec}: write scenes:N:SEED, two numbers, such as scenes:2000:11")
    return Rendered(int(count), int(seed or 1))
