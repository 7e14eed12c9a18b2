"""What is to be on each made-up picture, in words: half show exactly one small element of road works, half none.

One small element, because that is what positives of Subnet 72 show in 2026. Half of the negatives are hard: things that
look like road works and are none.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Element = Literal["cone", "barrier", "worker", "machine"]
Trap = Literal["end_sign", "cones_on_lorry", "orange_car", "cyclist", "low_loader"]

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
TRAPS: dict[Trap, tuple[str, ...]] = {
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
_ALWAYS_WITHOUT = "drawing, painting, cartoon, render, text overlay, watermark, deformed"
_WORKS = ("traffic cones", "barriers", "road workers", "construction machines", "road work signs", "excavation")
_OF: dict[Element, str] = dict(zip(ELEMENTS, _WORKS, strict=False))
_SEEDS = 2_000_000_000, 3_900_000_000  # which neither training, calibration nor evaluation draw scenes from


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """One picture. element: of road works, the only one; None without any. trap: what only looks like it.

    without: the negative prompt. seed: of the noise it begins with.
    """

    index: int
    label: bool
    element: Element | None
    trap: Trap | None
    tags: tuple[str, ...]
    prompt: str
    without: str
    seed: int


def image_prompt(run_seed: int, index: int) -> ImagePrompt:
    """The picture of a run with this index: the same in a longer run.

    Of four in a row two have one element, in turn, one is plain and one hard.
    """
    rng = np.random.default_rng([run_seed, index])
    pick = lambda options: options[int(rng.integers(len(options)))]  # noqa: E731
    tags = {name: pick(options) for name, options in TAGS.items()}
    turn = index // 2
    element: Element | None = None
    trap: Trap | None = None
    if index % 2 == 0:
        element = tuple(ELEMENTS)[turn % len(ELEMENTS)]
        what = f"There is {pick(ELEMENTS[element])}, and nothing else of road works."
        without = [works for name, works in _OF.items() if name != element] + list(_WORKS[len(ELEMENTS) :])
        without.append("several of them")
    elif turn % 2:
        trap = tuple(TRAPS)[turn // 2 % len(TRAPS)]
        what = f"There is {pick(TRAPS[trap])}. There are no road works."
        without = ["road workers digging", "closed lane", "excavation"]
    else:
        what = "The road is clear. There are no road works."
        without = list(_WORKS)
    road = tags["road"].capitalize()
    where = f"{road} in {tags['place']}, {tags['weather']}, {tags['light']}, {tags['traffic']}."
    return ImagePrompt(
        index=index,
        label=element is not None,
        element=element,
        trap=trap,
        tags=(*tags.values(), *(name for name in (element, trap) if name)),
        prompt=f"{_VIEW}. {where} {what}",
        without=", ".join([*without, _ALWAYS_WITHOUT]),
        seed=int(rng.integers(*_SEEDS)),
    )


def image_prompts(run_seed: int, count: int) -> list[ImagePrompt]:
    """The first so many of a run."""
    return [image_prompt(run_seed, index) for index in range(count)]
