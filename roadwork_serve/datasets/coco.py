"""CMU's ROADWork, or any other set of annotations in the layout of COCO: images, annotations, categories.

ROADWork marks nothing but what belongs to a work zone (github.com/anuragxel/roadwork-dataset, arXiv 2406.07661), so a
barrier or fence that is marked is one of the works.
"""

import json
import re
from pathlib import Path
from typing import Any

from roadwork_serve.datasets.base import DatasetItem, FileDataset, kind_of
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError

SOURCE = "CMU ROADWork"
LICENCE = "ODC-By-1.0"
# What makes works active as this project has it: workers, machines, or an area closed off with cones, barriers and the
# like; a single one of them is enough.
ACTIVE = frozenset({
    "cone", "fence", "drum", "barricade", "barrier", "vertical panel", "tubular marker", "arrow board",
    "work vehicle", "work equipment", "worker",
})  # fmt: skip
# Found ahead of works, behind them and without any: a picture with nothing else is not scored, since what the signs
# announce may be out of sight or over.
DOUBTFUL = frozenset({
    "police officer", "police vehicle", "bike lane", "other roadwork objects", "ttc message board", "ttc sign",
    "temporary traffic control message board", "temporary traffic control sign",
})  # fmt: skip
_PITTSBURGH = re.compile(r"pgh(?P<sequence>[^_]+)_[^_]+$")  # pgh<sequence>_<frame>
_CITY = re.compile(r"(?P<city>.+)_(?P<sequence>[^_]+)_[^_]+_[^_]+$")  # <city>_<sequence>_<video>_<frame>


def coco_dataset(path: Path, spec: str) -> FileDataset:
    """Every image of an annotation file; those without annotations show no road work.

    The group is the city and the sequence driven, from the name of the file. Images are looked for beside the file, in
    images/ beside it, and in images/ beside its folder. Raises ConfigError.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        images, marks, kinds = told["images"], told["annotations"], told["categories"]
        names = {kind["id"]: str(kind["name"]).replace("_", " ").lower() for kind in kinds}
        seen: dict[Any, set[str]] = {image["id"]: set() for image in images}
        for mark in marks:
            if mark["image_id"] in seen:
                seen[mark["image_id"]].add(names[mark["category_id"]])
        files = [(image["id"], str(image["file_name"])) for image in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no COCO annotation file ({type(error).__name__}: {error})") from None
    if not files:
        raise ConfigError(f"{path} lists no images")
    if not ACTIVE & set(names.values()):
        raise ConfigError(
            f"{path} has the categories {', '.join(sorted(names.values()))}: none of ROADWork's, so nobody knows which "
            "are active road work. Write a manifest.csv instead"
        )
    folder = _folder_of(path, files[0][1])
    return FileDataset(spec, folder, tuple(DatasetItem(_about(name, seen[number]), name) for number, name in files))


def group_of(name: str) -> str:
    """City and sequence of an image, without video and frame; empty for a name of another kind."""
    stem = Path(name).stem
    if found := _PITTSBURGH.match(stem):
        return f"pittsburgh {found['sequence']}"
    if found := _CITY.match(stem):
        return f"{found['city']} {found['sequence']}"
    return ""


def _about(name: str, seen: set[str]) -> SampleMetadata:
    return SampleMetadata(
        name, kind_of(name), bool(seen & ACTIVE), scored=not seen or bool(seen & ACTIVE),
        tags=tuple(sorted(seen)), group=group_of(name), source=SOURCE, licence=LICENCE,
    )  # fmt: skip


def _folder_of(path: Path, first: str) -> Path:
    places = (path.parent, path.parent / "images", path.parent.parent / "images")
    for place in places:
        if (place / first).is_file():
            return place
    raise ConfigError(f"{first} of {path} is in none of {', '.join(map(str, places))}; put the images into one of them")
