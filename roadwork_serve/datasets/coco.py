"""CMU's ROADWork dataset, or any other COCO annotation file (images, annotations, categories).

ROADWork annotates only objects that belong to a work zone (github.com/anuragxel/roadwork-dataset, arXiv 2406.07661),
so every annotated barrier or fence is part of road work.
"""

import json
import re
from pathlib import Path
from typing import Any

from roadwork_serve.datasets.base import DatasetItem, FileDataset, kind_of
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.local_files import written_path

SOURCE = "CMU ROADWork"
LICENCE = "ODC-By-1.0"
# Categories that make road work active by the definition of this project: workers, machines, or an area closed off with
# cones, barriers and the like. One of them is enough.
ACTIVE = frozenset({
    "cone", "fence", "drum", "barricade", "barrier", "vertical panel", "tubular marker", "arrow board",
    "work vehicle", "work equipment", "worker",
})  # fmt: skip
# Categories also found before and after a work zone, or without one. A picture with nothing else is ignored, because
# the road work that a sign announces may be out of sight or over.
DOUBTFUL = frozenset({
    "police officer", "police vehicle", "bike lane", "other roadwork objects", "ttc message board", "ttc sign",
    "temporary traffic control message board", "temporary traffic control sign",
})  # fmt: skip
_PITTSBURGH = re.compile(r"pgh(?P<sequence>[^_]+)_[^_]+$")  # pgh<sequence>_<frame>
_CITY = re.compile(r"(?P<city>.+)_(?P<sequence>[^_]+)_[^_]+_[^_]+$")  # <city>_<sequence>_<video>_<frame>


def coco_dataset(path: Path, uri: str) -> FileDataset:
    """Return every image of an annotation file as a dataset; images without annotations show no road work.

    The group is the city and the drive sequence, taken from the file name. Images are searched for beside the file, in
    images/ beside it, and in images/ beside its folder. Raises ConfigError.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images, annotations, categories = content["images"], content["annotations"], content["categories"]
        names = {category["id"]: str(category["name"]).replace("_", " ").lower() for category in categories}
        found: dict[Any, set[str]] = {image["id"]: set() for image in images}
        for annotation in annotations:
            if annotation["image_id"] in found:
                found[annotation["image_id"]].add(names[annotation["category_id"]])
        files = [(image["id"], str(image["file_name"])) for image in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a COCO annotation file ({type(error).__name__}: {error})") from None
    if not files:
        raise ConfigError(f"{path} lists no images")
    if not ACTIVE & set(names.values()):
        raise ConfigError(
            f"{path} has the categories {', '.join(sorted(names.values()))}: none of ROADWork's, so it is unknown "
            "which are active road work. Write a manifest.csv instead"
        )
    folder = _folder_of(path, files[0][1])
    named = [(image_id, written_path(folder, name)) for image_id, name in files]
    return FileDataset(
        uri, folder, tuple(DatasetItem(_metadata(name, found[image_id]), name) for image_id, name in named)
    )


def group_of(name: str) -> str:
    """Return the city and drive sequence of an image, without video and frame; empty for other file names."""
    stem = Path(name).stem
    if found := _PITTSBURGH.match(stem):
        return f"pittsburgh {found['sequence']}"
    if found := _CITY.match(stem):
        return f"{found['city']} {found['sequence']}"
    return ""


def _metadata(name: str, categories: set[str]) -> SampleMetadata:
    return SampleMetadata(
        name, kind_of(name), bool(categories & ACTIVE), ignore=bool(categories) and not categories & ACTIVE,
        tags=tuple(sorted(categories)), group=group_of(name), source=SOURCE, licence=LICENCE,
    )  # fmt: skip


def _folder_of(path: Path, first: str) -> Path:
    folders = (path.parent, path.parent / "images", path.parent.parent / "images")
    for folder in folders:
        if (folder / written_path(folder, first)).is_file():
            return folder
    raise ConfigError(
        f"{first} of {path} is in none of {', '.join(map(str, folders))}; put the images into one of them"
    )
