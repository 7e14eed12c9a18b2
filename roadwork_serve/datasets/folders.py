"""A folder with a folder for each class: DIR/roadwork/... and DIR/none/..."""

from pathlib import Path

from roadwork_serve.datasets.base import DatasetItem, FileDataset, kind_of
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError

CLASSES = {"roadwork": True, "none": False}


def folder_dataset(folder: Path, spec: str) -> FileDataset:
    """Every file below the two folders, hidden ones left out.

    The folders below a class are the group: DIR/roadwork/trip-7/a.jpg and DIR/none/trip-7/b.jpg are never parted.
    Raises ConfigError where one of the classes is not there or empty.
    """
    items: list[DatasetItem] = []
    for label, truth in CLASSES.items():
        root = folder / label
        found = sorted(path for path in root.rglob("*") if path.is_file() and not _hidden(path.relative_to(root)))
        if not found:
            raise ConfigError(
                f"{root} holds no files; a folder of classes is {folder}/roadwork/... and {folder}/none/..."
            )
        for path in found:
            below = path.relative_to(root).parent
            name = path.relative_to(folder).as_posix()
            group = "" if below == Path() else below.as_posix()
            items.append(DatasetItem(SampleMetadata(name, kind_of(name), truth, group=group, source=folder.name), name))
    return FileDataset(spec, folder, tuple(items))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
