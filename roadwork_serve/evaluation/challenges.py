"""Reproduces the challenges of Subnet 72: the augmentations its validators applied to a photo before sending it.

Taken from natixnetwork/streetvision-subnet, v0.2.4 to v0.4.2. It is unknown which of the three augmentations a revived
subnet would use, so each is drawn with equal probability.
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
_MAX_ROTATION = 20.0  # degrees, either way
_MIN_AREA = 0.2
# By strength, 0 for none: factors of saturation and brightness, divisor of the side length, variance of the noise
# (for values from 0 to 1), width of the blur kernel in pixels.
_SATURATION = (1.0, 0.4, 0.3)
_BRIGHTNESS = (1.0, 0.85, 0.725)
_DOWNSCALE = (1, 2, 3)
_NOISE = (0.0, 0.001, 0.002)
_BLUR = (0, 7, 9)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: an item of a dataset and the augmentation to apply."""

    number: int
    #: Index of the dataset that the item comes from.
    source: int
    item: DatasetItem
    augmentation: Augmentation


@dataclass(frozen=True, slots=True)
class AugmentationScore:
    """Metrics of the challenges with one augmentation."""

    n: int
    accuracy: float
    mcc: float
    #: Mean reward if these had been the only challenges.
    reward: float


@dataclass(frozen=True, slots=True)
class SubnetScore:
    """The reward that the subnet would have paid."""

    #: Number of challenges.
    challenges: int
    #: Mean over all answers.
    reward: float
    #: Score that a validator would hold for the miner at the end.
    score: float
    by_augmentation: dict[str, AugmentationScore]


def draw_challenges(datasets: Sequence[Dataset], count: int, seed: int) -> list[Challenge]:
    """Draw challenges as a validator does: a label by coin toss, then a dataset, one of its photos, an augmentation.

    No photo repeats before all of its label and dataset were drawn. Raises ConfigError when a label has no photo.
    """
    rng = random.Random(seed)  # noqa: S311 - not used for security
    pools: dict[bool, list[_Shuffled]] = {True: [], False: []}
    for source, each in enumerate(datasets):
        stills = [item for item in each.items() if item.metadata.kind == "photo" and not item.metadata.ignore]
        for label, into in pools.items():
            if found := [item for item in stills if item.metadata.label == label]:
                into.append(_Shuffled(source, found, rng))
    for label, found in pools.items():
        if not found:
            uris = ", ".join(each.uri for each in datasets)
            what = "with active road work" if label else "without active road work"
            raise ConfigError(
                f"{uris} holds no photo {what}; add some, because half of all challenges are of each kind"
            )
    drawn: list[Challenge] = []
    for number in range(count):
        pool = rng.choice(pools[rng.random() < 0.5])
        drawn.append(Challenge(number, pool.source, pool.draw(), rng.choice(AUGMENTATIONS)))
    return drawn


def write_challenges(
    datasets: Sequence[Dataset], drawn: Sequence[Challenge], folder: Path, seed: int, on_done: Callable[[], None]
) -> list[Failure]:
    """Write the challenges to a folder, reading each dataset once. Returns the files that cannot be used."""
    failed: list[Failure] = []
    for source, dataset in enumerate(datasets):
        wanted: dict[str, list[Challenge]] = {}
        for each in drawn:
            if each.source == source:
                wanted.setdefault(each.item.at, []).append(each)
        ordered = [item for item in dataset.items() if item.at in wanted]
        for item, sample in zip(ordered, dataset.samples(ordered), strict=True):
            for each in wanted[item.at]:
                try:
                    if isinstance(sample, CorruptItem):
                        raise ValueError(sample.reason)
                    rng = random.Random(f"{seed} {each.number}")  # noqa: S311 - not used for security
                    made = challenge(sample.data, each.augmentation, rng)
                    _file(folder, each).write_bytes(made)
                except (OSError, ValueError, Image.DecompressionBombError) as error:
                    failed.append(Failure(item.metadata.name, str(error)))
                on_done()
    return failed


def samples(drawn: Sequence[Challenge], folder: Path) -> Generator[Sample]:
    """Yield the challenges that were written, in the order they were drawn. The augmentation is their only tag."""
    for each in drawn:
        if (file := _file(folder, each)).exists():
            metadata = replace(
                each.item.metadata, name=f"{each.number:05}-{each.item.metadata.name}", tags=(each.augmentation,)
            )
            yield Sample(metadata, file.read_bytes())


def challenge(data: bytes, augmentation: Augmentation, rng: random.Random) -> bytes:
    """Return a photo as it reaches a miner: a JPEG of quality 75 that was compressed twice. Raises OSError.

    augmented (v0.2): 224x224 in four strengths: a centre crop; a rotated random crop; that with less saturation,
    brightness and resolution; all of it stronger, with noise and blur. letterboxed (v0.3): 224x224 with black bars.
    whole (v0.4): in its own size.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    encoded = Image.open(io.BytesIO(_jpeg(image)))
    match augmentation:
        case "augmented":
            return _jpeg(_augmented(encoded, rng))
        case "letterboxed":
            return _jpeg(ImageOps.pad(encoded, (SIDE, SIDE), Image.Resampling.LANCZOS, color="black"))
        case "whole":
            return _jpeg(encoded)


def subnet_score(rows: Sequence[EvaluationRow]) -> SubnetScore:
    """Return the reward the subnet would have paid for these answers, in this order."""
    paid = rewards([row.predicted_label for row in rows], [row.metadata.label for row in rows])
    by_augmentation = {
        augmentation: _augmentation_score([row for row in rows if row.metadata.tags == (augmentation,)])
        for augmentation in AUGMENTATIONS
    }
    return SubnetScore(len(rows), _mean(paid), score(paid), by_augmentation)


def _augmentation_score(rows: Sequence[EvaluationRow]) -> AugmentationScore:
    predicted, truth = [row.predicted_label for row in rows], [row.metadata.label for row in rows]
    return AugmentationScore(
        len(rows),
        metrics.accuracy(np.array(truth, bool), np.array(predicted, bool)),
        metrics.mcc(np.array(truth, bool), np.array(predicted, bool)),
        _mean(rewards(predicted, truth)),
    )


def _mean(paid: Sequence[float]) -> float:
    return sum(paid) / len(paid) if paid else math.nan


class _Shuffled:
    """The photos of one label in one dataset; reshuffled when all have been drawn."""

    def __init__(self, source: int, items: list[DatasetItem], rng: random.Random) -> None:
        self.source = source
        self._items = items
        self._chance = rng
        self._remaining: list[DatasetItem] = []

    def draw(self) -> DatasetItem:
        if not self._remaining:
            self._remaining = self._chance.sample(self._items, len(self._items))
        return self._remaining.pop()


def _augmented(image: Image.Image, rng: random.Random) -> Image.Image:
    strength = rng.randrange(4)
    if strength == 0:
        return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BILINEAR)
    image = image.rotate(rng.uniform(-_MAX_ROTATION, _MAX_ROTATION), Image.Resampling.BILINEAR)
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=_part(image.size, rng))
    if strength == 1:
        return image
    most = strength - 1
    image = ImageEnhance.Color(image).enhance(_SATURATION[rng.randint(0, most)])
    image = ImageEnhance.Brightness(image).enhance(_BRIGHTNESS[rng.randint(0, most)])
    if (times := _DOWNSCALE[rng.randint(0, most)]) > 1:
        small = image.resize((SIDE // times, SIDE // times), Image.Resampling.BILINEAR)
        image = small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if strength == 2:
        return image
    if variance := _NOISE[rng.randint(0, most)]:
        noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 255 * math.sqrt(variance), (SIDE, SIDE, 3))
        noisy = np.asarray(image.convert("YCbCr"), np.float64) + noise
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8), "YCbCr").convert("RGB")
    return image.filter(ImageFilter.GaussianBlur(_BLUR[rng.randint(0, most)] / 6))


def _part(size: tuple[int, int], rng: random.Random) -> tuple[float, float, float, float]:
    """Return a square crop box of at least a fifth of the picture's area, as far as one fits."""
    width, height = size
    side = min(math.sqrt(rng.uniform(_MIN_AREA, 1.0) * width * height), width, height)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    return left, top, left + side, top + side


def _jpeg(image: Image.Image) -> bytes:
    image.save(buffer := io.BytesIO(), "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _file(folder: Path, drawn: Challenge) -> Path:
    return folder / f"{drawn.number:05}.jpg"
