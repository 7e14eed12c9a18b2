"""Features of stage 1 with targets and metadata: the training data of heads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.features import Recipe
from roadwork_serve.errors import ConfigError

RECIPES: tuple[Recipe, ...] = ("cls", "cls+mean", "cls+mean+max")  # each begins as the shorter ones do
_ARRAYS = ("x", "target", "human_labeled", "weight", "has_text")


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """Features from one backbone, one row a photo or frame."""

    model: str
    recipe: Recipe
    #: float32 [n, width of the recipe].
    x: NDArray[np.float32]
    #: float32 [n]: probability of active road work; 0 or 1 for human labels, the teacher's posterior for others.
    target: NDArray[np.float32]
    #: bool [n].
    human_labeled: NDArray[np.bool_]
    #: float32 [n].
    weight: NDArray[np.float32]
    #: float32 [n]: 1 when the picture shows readable text, 0 when it does not, NaN when unknown.
    has_text: NDArray[np.float32]
    #: Group of each row that is never split; empty when unknown.
    group: tuple[str, ...]
    #: Name of the item of each row.
    name: tuple[str, ...]
    #: Fingerprint of the backbone's weights; empty when unknown.
    backbone: str = ""
    #: Metadata of the item of each row; empty when unknown.
    metadata: tuple[SampleMetadata, ...] = ()
    #: Sources of the rows, as written on the command line, each with a hash of how they were made.
    origin: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.target)

    @property
    def width(self) -> int:
        """Feature width of the backbone; each part of the recipe contributes this many."""
        return self.x.shape[1] // len(self.recipe.split("+"))

    @property
    def together(self) -> tuple[str, ...]:
        """Group of each row for splitting: its group, or else its item, so that frames of a clip stay together."""
        return tuple(group or f"item {name}" for group, name in zip(self.group, self.name, strict=True))

    def rows(self, which: NDArray[np.int64]) -> "FeatureSet":
        """Return the rows with these indices, in that order."""
        arrays = {name: getattr(self, name)[which] for name in _ARRAYS}
        return replace(
            self,
            **arrays,
            group=tuple(self.group[at] for at in which),
            name=tuple(self.name[at] for at in which),
            metadata=tuple(self.metadata[at] for at in which) if self.metadata else (),
        )

    def narrowed(self, recipe: Recipe) -> "FeatureSet":
        """Return the features of a shorter recipe. Raises ConfigError for a longer one."""
        if recipe not in RECIPES or RECIPES.index(recipe) > RECIPES.index(self.recipe):
            raise ConfigError(
                f"these features have recipe {self.recipe}, and {recipe} needs more; use --recipe {self.recipe}"
            )
        return replace(self, recipe=recipe, x=self.x[:, : self.width * len(recipe.split("+"))])

    @property
    def digest(self) -> str:
        """SHA-256, hex, of everything that a head is trained on."""
        digest = hashlib.sha256(json.dumps([self.backbone, self.recipe, self.group, self.name]).encode())
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()


def concatenate(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Concatenate several sets, reduced to the shortest recipe among them.

    Raises ConfigError when there are none, or when their backbones differ.
    """
    if not parts:
        raise ConfigError("there is no training data; name some with --data")
    first = parts[0]
    for part in parts[1:]:
        differ = part.backbone != first.backbone if part.backbone and first.backbone else part.width != first.width
        if differ:
            raise ConfigError(
                f"features of {first.model} and of {part.model} cannot be combined; extract all with the same backbone"
            )
    recipe = RECIPES[min(RECIPES.index(part.recipe) for part in parts)]
    parts = [part.narrowed(recipe) for part in parts]
    return FeatureSet(
        model=first.model,
        recipe=recipe,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
        group=tuple(group for part in parts for group in part.group),
        name=tuple(name for part in parts for name in part.name),
        backbone=next((part.backbone for part in parts if part.backbone), ""),
        metadata=tuple(metadata for part in parts for metadata in part.metadata)
        if all(part.metadata for part in parts)
        else (),
        origin=tuple(origin for part in parts for origin in part.origin),
    )


def drop_teacher_duplicates(features: FeatureSet) -> FeatureSet:
    """Drop the pseudo-labelled rows of items that also have a human label."""
    labelled = {name for name, people in zip(features.name, features.human_labeled, strict=True) if people}
    keep = [
        bool(people) or name not in labelled for name, people in zip(features.name, features.human_labeled, strict=True)
    ]
    return features if all(keep) else features.rows(np.flatnonzero(keep))


def write_features(path: Path, features: FeatureSet) -> None:
    """Write the set to a safetensors file atomically."""
    from safetensors.numpy import save_file

    rest = {name: getattr(features, name) for name in ("model", "recipe", "group", "name", "backbone", "origin")}
    metadata = [asdict(metadata) for metadata in features.metadata]
    arrays = {name: np.ascontiguousarray(getattr(features, name)) for name in _ARRAYS}
    with replace_file(path) as draft:
        save_file(arrays, draft, {"features": json.dumps(rest | {"metadata": metadata})})


def read_features(path: Path) -> FeatureSet:
    """Read a file written by `write_features`. Raises ConfigError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            rest = json.loads(file.metadata()["features"])
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} holds no features ({error}); make it with `roadwork train-head --save-features`"
        ) from None
    metadata = tuple(SampleMetadata(**{**each, "tags": tuple(each["tags"])}) for each in rest.pop("metadata"))
    return FeatureSet(
        model=rest["model"],
        recipe=rest["recipe"],
        **arrays,
        group=tuple(rest["group"]),
        name=tuple(rest["name"]),
        backbone=rest["backbone"],
        metadata=metadata,
        origin=tuple(rest["origin"]),
    )
