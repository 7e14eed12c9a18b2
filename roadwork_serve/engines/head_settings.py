"""Settings of heads, and the check that a head is for a backbone. Without PyTorch, which not every engine needs."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.head_files import HeadFiles
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.errors import ModelError

Recipe = Literal["cls", "cls+mean", "cls+mean+max"]  # each starts with the shorter ones
PATCH_FILE = "patch_head"
TRAIN = (
    "For a miniature run `roadwork minis train backbone`; for any other backbone name a folder with head.json and "
    "head.safetensors in engines.NAME.features.head of the profile"
)


@dataclass(frozen=True)
class HeadSettings:
    """Architecture of a head, stored in head.json."""

    #: Width of the backbone's features.
    width: int
    #: Features of the backbone that are pooled.
    recipe: Recipe = "cls"
    #: Width of the hidden layer; 0 for a linear head.
    hidden: int = 256
    dropout: float = 0.1
    #: Names of the logits in order.
    outputs: tuple[str, ...] = field(default=(ROADWORK, "words"))
    #: Fingerprint of the backbone it was trained on; empty if unknown.
    backbone: str = ""

    @classmethod
    def parse(cls, text: bytes) -> "HeadSettings":
        """Parse head.json.

        Raises:
            ValueError: It is not JSON.
            TypeError: A field is unknown, or of another type.
            KeyError: The outputs are missing.
        """
        settings = json.loads(text)
        return cls(**{**settings, "outputs": tuple(settings["outputs"])})

    @property
    def features(self) -> int:
        """Width of the pooled features."""
        return self.width * len(self.recipe.split("+"))


@dataclass(frozen=True)
class PatchHeadSettings:
    """Architecture of a patch head, stored in patch_head.json."""

    #: Width of the patch tokens.
    width: int
    #: Names of the logits in order.
    classes: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "PatchHeadSettings":
        """Read patch_head.json. Raises OSError, ValueError, TypeError or KeyError."""
        settings = json.loads((folder / f"{PATCH_FILE}.json").read_text(encoding="utf-8"))
        return cls(int(settings["width"]), tuple(settings["classes"]))


class BackboneIdentity(NamedTuple):
    """A backbone, as heads are trained for it."""

    #: Folder or hub id.
    name: str
    #: Width of its features.
    width: int


def head_files(folder: Path) -> HeadFiles:
    """Read the files of a head that the profile names, or that lies with the weights.

    Raises:
        ModelError: One cannot be read.
    """
    try:
        return HeadFiles((folder / "head.json").read_bytes(), (folder / "head.safetensors").read_bytes())
    except OSError as error:
        raise ModelError(f"The head in {folder} cannot be read: {error}. {TRAIN}.") from error


def check_head(settings: HeadSettings, head: str, backbone: BackboneIdentity) -> None:
    """Raise ModelError if a head is for another backbone, or has no output for road work."""
    if settings.width != backbone.width:
        raise ModelError(
            f"The head in {head} was trained on features of width {settings.width}, and the backbone "
            f"{backbone.name} has {backbone.width}: train a head for this backbone."
        )
    if settings.backbone and settings.backbone != fingerprint(backbone.name):
        raise ModelError(
            f"The head in {head} was trained on another backbone of the same width than {backbone.name}: train a "
            "head for this backbone."
        )
    if ROADWORK not in settings.outputs:
        raise ModelError(f"The head in {head} has no output {ROADWORK}: name one that does, or train it again.")


def check_patch_head(settings: PatchHeadSettings, folder: Path, backbone: BackboneIdentity) -> None:
    """Raise ModelError if a patch head is for another backbone."""
    if settings.width != backbone.width:
        raise ModelError(
            f"The patch head in {folder} was trained on patches of width {settings.width}, and the backbone "
            f"{backbone.name} has {backbone.width}: train one for this backbone."
        )
