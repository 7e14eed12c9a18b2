"""Subnet 72's challenges, made of any labelled photos: what its validators did to a picture before they sent it.

Read from natixnetwork/streetvision-subnet, v0.2.4 to v0.4.2. Which of the three looks a subnet that comes back would
send is not known, so each is drawn equally often.
"""

import io
import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from roadwork_serve.datasets.base import CorruptItem, Dataset, DatasetItem
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation import metrics
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.run import Failure
from roadwork_serve.subnet_reward import rewards, score

Augmentation = Literal["augmented", "letterboxed", "whole"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
SIDE = 224
_QUALITY = 75
_TURN = 20.0  # degrees, either way
_LEAST_AREA = 0.2
# By strength, 0 for none: what saturation and brightness are multiplied with, how often a side is divided, the
# variance of the noise (of values from 0 to 1), the width of the blur's kernel in pixels.
_SATURATION = (1.0, 0.4, 0.3)
_BRIGHTNESS = (1.0, 0.85, 0.725)
_COARSER = (1, 2, 3)
_NOISE = (0.0, 0.001, 0.002)
_BLUR = (0, 7, 9)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: an item of a data set, and how it is to look."""

    number: int
    source: int
    item: DatasetItem
    look: Augmentation


@dataclass(frozen=True, slots=True)
class AugmentationScore:
    """How the answers to the challenges of one look were. reward: as if there had been no others."""

    n: int
    accuracy: float
    mcc: float
    reward: float


@dataclass(frozen=True, slots=True)
class SubnetScore:
    """What the subnet would have paid. reward: mean over all answers; score: what a validator would hold at the end."""

    challenges: int
    reward: float
    score: float
    by_look: dict[str, AugmentationScore]


def draw_challenges(datasets: Sequence[Dataset], count: int, seed: int) -> list[Challenge]:
    """Challenges as a validator draws them: road work or not by a coin, then a source, then one of its photos, a look.

    Nothing is drawn a second time before all of its kind was drawn. Raises ConfigError where a label has no photo.
    """
    chance = random.Random(seed)  # noqa: S311 - a draw, no secret
    decks: dict[bool, list[_Deck]] = {True: [], False: []}
    for source, each in enumerate(datasets):
        stills = [item for item in each.listed() if item.about.kind == "photo" and item.about.scored]
        for label, into in decks.items():
            if found := [item for item in stills if item.about.label == label]:
                into.append(_Deck(source, found, chance))
    for label, found in decks.items():
        if not found:
            told = ", ".join(each.spec for each in datasets)
            what = "with active road work" if label else "without"
            raise ConfigError(f"{told} holds no photo {what}; a challenge is either with equal chance")
    drawn: list[Challenge] = []
    for number in range(count):
        deck = chance.choice(decks[chance.random() < 0.5])
        drawn.append(Challenge(number, deck.source, deck.draw(), chance.choice(AUGMENTATIONS)))
    return drawn


def write_challenges(
    datasets: Sequence[Dataset], drawn: Sequence[Challenge], folder: Path, seed: int, on_done: Callable[[], None]
) -> list[Failure]:
    """Write the challenges to a folder, each source read once and in its order. What cannot be used is told of."""
    failed: list[Failure] = []
    for source, dataset in enumerate(datasets):
        wanted: dict[str, list[Challenge]] = {}
        for each in drawn:
            if each.source == source:
                wanted.setdefault(each.item.at, []).append(each)
        ordered = [item for item in dataset.listed() if item.at in wanted]
        for item, sample in zip(ordered, dataset.samples(ordered), strict=True):
            for each in wanted[item.at]:
                try:
                    if isinstance(sample, CorruptItem):
                        raise ValueError(sample.why)
                    chance = random.Random(f"{seed} {each.number}")  # noqa: S311 - a draw, no secret
                    made = challenge(sample.data, each.look, chance)
                    _file(folder, each).write_bytes(made)
                except (OSError, ValueError, Image.DecompressionBombError) as error:
                    failed.append(Failure(item.about.name, str(error)))
                on_done()
    return failed


def samples(drawn: Sequence[Challenge], folder: Path) -> Generator[Sample]:
    """Those that could be made, in the order they were drawn; the look is their only tag."""
    for each in drawn:
        if (file := _file(folder, each)).exists():
            about = replace(each.item.about, name=f"{each.number:05}-{each.item.about.name}", tags=(each.look,))
            yield Sample(about, file.read_bytes())


def challenge(data: bytes, look: Augmentation, chance: random.Random) -> bytes:
    """A picture as it reaches a miner: JPEG of quality 75, compressed twice on the way. Raises OSError for no picture.

    augmented: 224x224, v0.2, in four strengths: the middle of the picture; a turned part of it; that with colours
    faded, darker and coarser; all of it stronger, with noise and blur. letterboxed: 224x224 with black bars, v0.3.
    whole: in its own size, v0.4.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    kept = Image.open(io.BytesIO(_jpeg(image)))
    match look:
        case "augmented":
            return _jpeg(_augmented(kept, chance))
        case "letterboxed":
            return _jpeg(ImageOps.pad(kept, (SIDE, SIDE), Image.Resampling.LANCZOS, color="black"))
        case "whole":
            return _jpeg(kept)


def subnet_score(rows: Sequence[EvaluationRow]) -> SubnetScore:
    """What the subnet would have paid the miner for these answers, in this order."""
    paid = rewards([row.said for row in rows], [row.about.label for row in rows])
    by_look = {look: _looked([row for row in rows if row.about.tags == (look,)]) for look in AUGMENTATIONS}
    return SubnetScore(len(rows), _mean(paid), score(paid), by_look)


def _looked(rows: Sequence[EvaluationRow]) -> AugmentationScore:
    said, truth = [row.said for row in rows], [row.about.label for row in rows]
    return AugmentationScore(
        len(rows),
        metrics.accuracy(np.array(truth, bool), np.array(said, bool)),
        metrics.mcc(np.array(truth, bool), np.array(said, bool)),
        _mean(rewards(said, truth)),
    )


def _mean(paid: Sequence[float]) -> float:
    return sum(paid) / len(paid) if paid else math.nan


class _Deck:
    """The photos of a label in a source, shuffled anew when all are dealt."""

    def __init__(self, source: int, items: list[DatasetItem], chance: random.Random) -> None:
        self.source = source
        self._items = items
        self._chance = chance
        self._left: list[DatasetItem] = []

    def draw(self) -> DatasetItem:
        if not self._left:
            self._left = self._chance.sample(self._items, len(self._items))
        return self._left.pop()


def _augmented(image: Image.Image, chance: random.Random) -> Image.Image:
    strength = chance.randrange(4)
    if strength == 0:
        return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BILINEAR)
    image = image.rotate(chance.uniform(-_TURN, _TURN), Image.Resampling.BILINEAR)
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=_part(image.size, chance))
    if strength == 1:
        return image
    most = strength - 1
    image = ImageEnhance.Color(image).enhance(_SATURATION[chance.randint(0, most)])
    image = ImageEnhance.Brightness(image).enhance(_BRIGHTNESS[chance.randint(0, most)])
    if (times := _COARSER[chance.randint(0, most)]) > 1:
        from_choice = image.resize((SIDE // times, SIDE // times), Image.Resampling.BILINEAR)
        image = from_choice.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if strength == 2:
        return image
    if variance := _NOISE[chance.randint(0, most)]:
        noise = np.random.default_rng(chance.randrange(2**32)).normal(0, 255 * math.sqrt(variance), (SIDE, SIDE, 3))
        noisy = np.asarray(image.convert("YCbCr"), np.float64) + noise
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8), "YCbCr").convert("RGB")
    return image.filter(ImageFilter.GaussianBlur(_BLUR[chance.randint(0, most)] / 6))


def _part(size: tuple[int, int], chance: random.Random) -> tuple[float, float, float, float]:
    """A square of at least a fifth of the picture's area, as far as it has room for one."""
    width, height = size
    side = min(math.sqrt(chance.uniform(_LEAST_AREA, 1.0) * width * height), width, height)
    left, top = chance.uniform(0, width - side), chance.uniform(0, height - side)
    return left, top, left + side, top + side


def _jpeg(image: Image.Image) -> bytes:
    image.save(told := io.BytesIO(), "JPEG", quality=_QUALITY)
    return told.getvalue()


def _file(folder: Path, drawn: Challenge) -> Path:
    return folder / f"{drawn.number:05}.jpg"
