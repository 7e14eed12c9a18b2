"""Whatever makes a picture to a brief."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.scenes.deck import stage_still
from roadwork_serve.testbed.scenes.truth import ThingKind, Truth
from roadwork_serve.testbed.synthesis.prompts import ELEMENTS, ImagePrompt, Trap

_MOST = 20_000  # scenes looked through for one; every kind is among a few hundred
_WORKS = (*ELEMENTS, "barrel", "arrow_board")
_TRAPS: dict[Trap, ThingKind] = {
    "end_sign": "sign_end",
    "cones_on_lorry": "lorry_with_cones",
    "orange_car": "parked_cones",  # cars of the scenes have any colour, so cones on a yard stand in
    "cyclist": "cyclist",
    "low_loader": "low_loader",
}


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """jpeg: the picture. seed: what it was made with. tags: what is true of it.

    prompt, without: what the model was told; empty where there is none. group: pictures from one photo are never
    parted. start: that photo; empty for none.
    """

    jpeg: bytes
    seed: int
    tags: tuple[str, ...]
    prompt: str = ""
    without: str = ""
    group: str = ""
    start: str = ""


class ImageGenerator(Protocol):
    """Makes one picture after the other."""

    @property
    def name(self) -> str:
        """By which it is chosen."""
        ...

    @property
    def model(self) -> str:
        """What it paints with: folder or hub id of its weights."""
        ...

    @property
    def licence(self) -> str:
        """Of what it makes."""
        ...

    def paint(self, brief: ImagePrompt) -> GeneratedImage:
        """The picture, always the same for the same brief. Raises ModelError."""
        ...


class SceneGenerator:
    """Rendered scenes: the first of the test track from the brief's seed on that shows what is wanted."""

    name, model, licence = "scenes", "rendered scenes", "Apache-2.0"

    def paint(self, brief: ImagePrompt) -> GeneratedImage:
        """See `ImageGenerator`."""
        for seed in range(brief.seed, brief.seed + _MOST):
            truth = stage_still(seed).truth
            if _shows(truth, brief):
                named = (brief.element,) if brief.element else (_TRAPS[brief.trap],) if brief.trap else ()
                return GeneratedImage(scenes.photo(seed).jpeg(), seed, (*truth.tags, *named))
        raise ConfigError(f"no scene from {brief.seed} on is to brief {brief.index}; take another --seed")


def _shows(truth: Truth, brief: ImagePrompt) -> bool:
    """One object of works and no other, or the trap; for neither, nothing that even looks like works."""
    seen = [thing.kind for thing in truth.things if thing.box[2] > thing.box[0] and thing.box[3] > thing.box[1]]
    works, traps = [kind for kind in seen if kind in _WORKS], [kind for kind in seen if kind in _TRAPS.values()]
    if brief.element is not None:
        return truth.label and truth.activity == "single_object" and works == [brief.element]
    if brief.trap is not None:
        return not truth.label and _TRAPS[brief.trap] in traps
    return not truth.label and not works and not traps


def open_generator(
    name: str, model: str | None = None, images: Path | None = None, strength: float = 0.6
) -> ImageGenerator:
    """scenes, sdxl or cosmos. images, strength: for sdxl, photos to start from and how far they may be left.

    Raises ModelError where there is no GPU, no library or no weights.
    """
    if images is not None and name != "sdxl":
        raise ConfigError(f"{name} starts from no photos; take --painter sdxl, or leave --images out")
    if name == "scenes":
        if model is not None:
            raise ConfigError("scenes are drawn without a model; leave --model out, or take --painter sdxl or cosmos")
        return SceneGenerator()
    from roadwork_serve.testbed.synthesis.diffusion import Cosmos, StableDiffusion

    if name == "sdxl":
        return StableDiffusion(model, images, strength)
    if name == "cosmos":
        return Cosmos(model)
    raise ConfigError(f"there is no painter {name!r}: take scenes, sdxl or cosmos")
