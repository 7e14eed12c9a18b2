"""Prompts for generated pictures: half show exactly one small element of road work, half show none.

One small element, because that is what the positives of Subnet 72 show in 2026. Half of the negatives are hard: they
show something that looks like road work and is none.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Element = Literal["cone", "barrier", "worker", "machine"]
Lookalike = Literal["end_sign", "cones_on_lorry", "orange_car", "cyclist", "low_loader"]

ELEMENTS: dict[Element, tuple[str, ...]] = {
    "cone": ("a single small orange traffic cone standing on the carriageway", "one small traffic cone at the kerb"),
    "barrier": (
        "a single small red and white road barrier on the carriageway",
        "one small plastic barrier at the kerb",
    ),
    "worker": (
        "a single distant road worker in a hi-vis vest, digging at the kerb",
        "one road worker holding a shovel",
    ),
    "machine": ("a single small excavator at work on the verge", "one small road roller at work at the roadside"),
}
LOOKALIKES: dict[Lookalike, tuple[str, ...]] = {
    "end_sign": ("an orange sign that reads END ROAD WORK, and behind it an open, empty road",),
    "cones_on_lorry": ("a lorry driving along with a stack of traffic cones on its load bed",),
    "orange_car": ("an orange car driving ahead", "an orange van parked at the kerb"),
    "cyclist": ("a cyclist in a hi-vis vest riding along the road",),
    "low_loader": ("a low-loader lorry carrying an excavator along the road",),
}
TAGS: dict[str, tuple[str, ...]] = {
    "road": ("a city street", "a country road", "a motorway", "a suburban street", "a bridge", "a roundabout"),
    "weather": ("sunny", "overcast", "rainy, wet asphalt", "foggy", "snowy"),
    "light": ("at noon", "in the evening", "at night under street lamps", "at dawn"),
    "place": ("Germany", "the United States", "the United Kingdom", "Spain", "Japan", "Brazil"),
    "traffic": ("no other traffic", "light traffic", "dense traffic"),
}
_VIEW = "Photograph through the windscreen of a car, dashboard camera, realistic"
_NEGATIVE = "drawing, painting, cartoon, render, text overlay, watermark, deformed"
_WORKS = ("traffic cones", "barriers", "road workers", "construction machines", "road work signs", "excavation")
_WORKS_BY_ELEMENT: dict[Element, str] = dict(zip(ELEMENTS, _WORKS, strict=False))
_SEEDS = 2_000_000_000, 3_900_000_000  # range that neither training, calibration nor evaluation use


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """The prompt for one picture."""

    index: int
    label: bool
    #: The only element of road work on it; None for a negative.
    element: Element | None
    #: Something that only looks like road work; None for a plain picture.
    lookalike: Lookalike | None
    tags: tuple[str, ...]
    prompt: str
    negative_prompt: str
    #: Seed of the initial noise.
    seed: int


def image_prompt(run_seed: int, index: int) -> ImagePrompt:
    """Return the prompt with this index in a run; the length of the run does not matter.

    Of each four in a row two have one element (the elements alternate), one is plain and one is a hard negative.
    """
    rng = np.random.default_rng([run_seed, index])
    pick = lambda options: options[int(rng.integers(len(options)))]  # noqa: E731
    tags = {name: pick(options) for name, options in TAGS.items()}
    round_index = index // 2
    element: Element | None = None
    lookalike: Lookalike | None = None
    if index % 2 == 0:
        element = tuple(ELEMENTS)[round_index % len(ELEMENTS)]
        content = f"There is {pick(ELEMENTS[element])}, and nothing else of road works."
        negative = [works for name, works in _WORKS_BY_ELEMENT.items() if name != element] + list(
            _WORKS[len(ELEMENTS) :]
        )
        negative.append("several of them")
    elif round_index % 2:
        lookalike = tuple(LOOKALIKES)[round_index // 2 % len(LOOKALIKES)]
        content = f"There is {pick(LOOKALIKES[lookalike])}. There are no road works."
        negative = ["road workers digging", "closed lane", "excavation"]
    else:
        content = "The road is clear. There are no road works."
        negative = list(_WORKS)
    road = tags["road"].capitalize()
    setting = f"{road} in {tags['place']}, {tags['weather']}, {tags['light']}, {tags['traffic']}."
    return ImagePrompt(
        index=index,
        label=element is not None,
        element=element,
        lookalike=lookalike,
        tags=(*tags.values(), *(name for name in (element, lookalike) if name)),
        prompt=f"{_VIEW}. {setting} {content}",
        negative_prompt=", ".join([*negative, _NEGATIVE]),
        seed=int(rng.integers(*_SEEDS)),
    )


def image_prompts(run_seed: int, count: int) -> list[ImagePrompt]:
    """Return the first `count` prompts of a run."""
    return [image_prompt(run_seed, index) for index in range(count)]
