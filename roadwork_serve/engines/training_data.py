"""The real data that weights were trained on, as the `training.json` beside them declares it."""

from collections.abc import Iterable
from functools import reduce
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from roadwork_serve.errors import ModelError

NAME = "training.json"


class TrainingData(BaseModel):
    """Sources and groups of items that weights were trained on. Other entries of the file are ignored."""

    model_config = ConfigDict(frozen=True)

    #: Names of sources, as the column source_repo of a manifest has them. All items of a source count as trained on.
    sources: frozenset[str] = frozenset()
    #: Names of groups, such as the frames of one drive.
    groups: frozenset[str] = frozenset()

    def covers(self, source: str, group: str) -> bool:
        """Return whether an item of this source and group may have been trained on."""
        return source in self.sources or group in self.groups

    def joined(self, other: "TrainingData") -> "TrainingData":
        """Return the data of both."""
        return TrainingData(sources=self.sources | other.sources, groups=self.groups | other.groups)

    def facts(self) -> dict[str, list[str]]:
        """Return the entries of the file."""
        return {"sources": sorted(self.sources), "groups": sorted(self.groups)}


def training_data(folders: Iterable[str]) -> TrainingData:
    """Return everything that the weights in these folders declare; hub ids and weights without the file declare none.

    Raises ModelError when a file is malformed.
    """
    found = (_read(path) for folder in folders if (path := Path(folder) / NAME).is_file())
    return reduce(TrainingData.joined, found, TrainingData())


def _read(path: Path) -> TrainingData:
    try:
        return TrainingData.model_validate_json(path.read_bytes())
    except ValidationError as error:
        entry = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise ModelError(f"{path}: {entry} is invalid; sources and groups must be lists of names") from None
