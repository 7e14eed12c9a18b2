"""A dataset with one folder a class: DIR/roadwork/... and DIR/none/..."""

from pathlib import Path

from roadwork_serve.datasets.base import DatasetItem, FileDataset, kind_of
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError

CLASSES = {"roadwork": True, "none": False}


def folder_dataset(folder: Path, uri: str) -> FileDataset:
    """Return every file below the two class folders, except hidden ones, as a dataset.

    Subfolders of a class are groups: DIR/roadwork/trip-7/a.jpg and DIR/none/trip-7/b.jpg are never split. Raises
    ConfigError when a class folder is missing or empty.
    """
    items: list[DatasetItem] = []
    for label, positive in CLASSES.items():
        root = folder / label
        found = sorted(path for path in root.rglob("*") if path.is_file() and not _hidden(path.relative_to(root)))
        if not found:
            raise ConfigError(f"{root} holds no files; put the files into {folder}/roadwork/... and {folder}/none/...")
        for path in found:
            below = path.relative_to(root).parent
            name = path.relative_to(folder).as_posix()
            group = "" if below == Path() else below.as_posix()
            items.append(
                DatasetItem(SampleMetadata(name, kind_of(name), positive, group=group, source=folder.name), name)
            )
    return FileDataset(uri, folder, tuple(items))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
