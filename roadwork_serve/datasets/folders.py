"""A dataset with one folder a class: DIR/roadwork/... and DIR/none/..., or the labels of another task."""

from pathlib import Path

from roadwork_serve.datasets.base import DatasetItem, FileDataset, kind_of
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.local_files import list_folder
from roadwork_serve.printable import writable
from roadwork_serve.profiles.task import Task


def folder_dataset(folder: Path, uri: str, task: Task) -> FileDataset:
    """Return every file below the two class folders as a dataset; see `list_folder` for hidden files and links.

    Subfolders of a class are groups: DIR/roadwork/trip-7/a.jpg and DIR/none/trip-7/b.jpg are never split. Raises
    ConfigError when a class folder is missing or empty.
    """
    items: list[DatasetItem] = []
    for label in task.labels:
        root = folder / label
        found = list_folder(root) if root.is_dir() else []
        if not found:
            places = " and ".join(f"{folder}/{each}/..." for each in task.labels)
            raise ConfigError(f"{root} holds no files; put the files into {places}")
        for each in found:
            name, group = f"{label}/{each.name}", each.name.rpartition("/")[0]
            metadata = SampleMetadata(
                name, kind_of(name), label == task.positive, group=group, source=writable(folder.name)
            )
            items.append(DatasetItem(metadata, each.path.removeprefix(f"{folder}/"), problem=each.problem))
    return FileDataset(uri, folder, tuple(items))
