"""Features of stage 1 with what is known of each item: what heads are trained on and tried with."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.features import Recipe
from roadwork_serve.errors import ConfigError

RECIPES: tuple[Recipe, ...] = ("cls", "cls+mean", "cls+mean+max")  # each begins as the shorter ones do
_ARRAYS = ("x", "target", "human_labeled", "weight", "words")


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """Items of one backbone, a row each; of a clip every frame is a row of its own.

    x: float32 [n, width of the recipe]. target: float32 [n], probability of active road work: 0 or 1 where people
    said, a teacher's posterior elsewhere. by_people: bool [n]. weight: float32 [n].
    words: float32 [n], whether words worth reading are on it; NaN where nobody looked.
    group: of each, what must never be parted; empty where nothing is known. name: of the item each belongs to.
    backbone: fingerprint of the weights of the model, empty where that is not known.
    about: what is known of the item of each row; empty where that was not kept.
    origin: what the rows were taken from, as it is written on the command line, with a hash of how they were made.
    """

    model: str
    recipe: Recipe
    x: NDArray[np.float32]
    target: NDArray[np.float32]
    human_labeled: NDArray[np.bool_]
    weight: NDArray[np.float32]
    words: NDArray[np.float32]
    group: tuple[str, ...]
    name: tuple[str, ...]
    backbone: str = ""
    about: tuple[SampleMetadata, ...] = ()
    origin: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.target)

    @property
    def width(self) -> int:
        """Of the backbone; the recipe has so many of it as it has parts."""
        return self.x.shape[1] // len(self.recipe.split("+"))

    @property
    def together(self) -> tuple[str, ...]:
        """What must not be parted: the group, where there is none the item, so that frames of a clip stay together."""
        return tuple(group or f"item {name}" for group, name in zip(self.group, self.name, strict=True))

    def rows(self, which: NDArray[np.int64]) -> "FeatureSet":
        """The rows with these indices, in their order."""
        arrays = {name: getattr(self, name)[which] for name in _ARRAYS}
        return replace(
            self,
            **arrays,
            group=tuple(self.group[at] for at in which),
            name=tuple(self.name[at] for at in which),
            about=tuple(self.about[at] for at in which) if self.about else (),
        )

    def narrowed(self, recipe: Recipe) -> "FeatureSet":
        """The same by a shorter recipe. Raises ConfigError for one that needs more than is there."""
        if recipe not in RECIPES or RECIPES.index(recipe) > RECIPES.index(self.recipe):
            raise ConfigError(f"these features are {self.recipe}, and {recipe} wants more; take --recipe {self.recipe}")
        return replace(self, recipe=recipe, x=self.x[:, : self.width * len(recipe.split("+"))])

    @property
    def digest(self) -> str:
        """SHA-256, hex, of everything that a head can learn from it."""
        told = hashlib.sha256(json.dumps([self.backbone, self.recipe, self.group, self.name]).encode())
        for name in _ARRAYS:
            told.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return told.hexdigest()


def concatenate(parts: Sequence[FeatureSet]) -> FeatureSet:
    """All rows of several sets, by the shortest recipe among them.

    Raises ConfigError where there is none, or where they are of different backbones.
    """
    if not parts:
        raise ConfigError("there is nothing to learn from; name data")
    first = parts[0]
    for part in parts[1:]:
        apart = part.backbone != first.backbone if part.backbone and first.backbone else part.width != first.width
        if apart:
            raise ConfigError(
                f"features of {first.model} and of {part.model} do not go together; extract all with the same backbone"
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
        about=tuple(about for part in parts for about in part.about) if all(part.about for part in parts) else (),
        origin=tuple(origin for part in parts for origin in part.origin),
    )


def drop_teacher_duplicates(features: FeatureSet) -> FeatureSet:
    """Without what a teacher said of items that people spoke of."""
    told = {name for name, people in zip(features.name, features.human_labeled, strict=True) if people}
    keep = [
        bool(people) or name not in told for name, people in zip(features.name, features.human_labeled, strict=True)
    ]
    return features if all(keep) else features.rows(np.flatnonzero(keep))


def write_features(path: Path, features: FeatureSet) -> None:
    """One file of safetensors, whole or not at all."""
    from safetensors.numpy import save_file

    rest = {name: getattr(features, name) for name in ("model", "recipe", "group", "name", "backbone", "origin")}
    about = [asdict(about) for about in features.about]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    arrays = {name: np.ascontiguousarray(getattr(features, name)) for name in _ARRAYS}
    save_file(arrays, draft, {"features": json.dumps(rest | {"about": about})})
    draft.replace(path)


def read_features(path: Path) -> FeatureSet:
    """What `write_features` wrote. Raises ConfigError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            rest = json.loads(file.metadata()["features"])
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} holds no features ({error}); make it with `roadwork train-head --save-features`"
        ) from None
    about = tuple(SampleMetadata(**{**each, "tags": tuple(each["tags"])}) for each in rest.pop("about"))
    return FeatureSet(
        model=rest["model"],
        recipe=rest["recipe"],
        **arrays,
        group=tuple(rest["group"]),
        name=tuple(rest["name"]),
        backbone=rest["backbone"],
        about=about,
        origin=tuple(rest["origin"]),
    )
