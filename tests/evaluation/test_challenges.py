"""Challenges as Subnet 72's validators make them, and their rewards."""

import io
import random
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadwork_serve.datasets.base import CorruptItem, DatasetItem
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.challenges import (
    AUGMENTATIONS,
    SIDE,
    Challenge,
    challenge,
    draw_challenges,
    samples,
    subnet_score,
    write_challenges,
)
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.schema import MediaKind


def jpeg(width: int = 640, height: int = 360, shade: int = 0) -> bytes:
    rising = np.linspace(0, 255, width, dtype=np.uint8)
    image = np.stack([np.tile(rising, (height, 1)), np.full((height, width), 128), np.full((height, width), shade)], 2)
    Image.fromarray(image.astype(np.uint8)).save(buffer := io.BytesIO(), "JPEG", quality=95)
    return buffer.getvalue()


def shown(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@dataclass
class Album:
    """A dataset with these numbers of photos with and without road work. corrupt: those that cannot be read."""

    uri: str
    works: int
    others: int
    corrupt: tuple[int, ...] = ()
    more: list[SampleMetadata] = field(default_factory=list[SampleMetadata])

    def items(self) -> list[DatasetItem]:
        photo: MediaKind = "photo"
        metadata = [
            SampleMetadata(f"{self.uri}-{at}.jpg", photo, at < self.works) for at in range(self.works + self.others)
        ]
        return [DatasetItem(metadata, str(at)) for at, metadata in enumerate(metadata + self.more)]

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        ats = [int(each.at) for each in wanted]
        assert ats == sorted(set(ats)), "each once, and in order"
        for each in wanted:
            damaged = int(each.at) in self.corrupt
            yield (
                CorruptItem(each.metadata.name, "is gone")
                if damaged
                else Sample(each.metadata, jpeg(shade=int(each.at)))
            )


def test_labels_sources_and_augmentations_are_balanced_for_any_data() -> None:
    drawn = draw_challenges([Album("a", 3, 90), Album("b", 40, 5)], 3000, seed=1)
    for of in (lambda d: d.item.metadata.label, lambda d: d.source, lambda d: d.augmentation):
        counts = Counter(map(of, drawn))
        assert all(abs(count - 3000 / len(counts)) < 130 for count in counts.values()), counts
    assert [each.number for each in drawn] == list(range(3000))


def test_nothing_is_drawn_twice_before_all_of_its_kind() -> None:
    drawn = [each.item.at for each in draw_challenges([Album("a", 10, 10)], 400, seed=2) if each.item.metadata.label]
    for start in range(0, len(drawn) - 9, 10):
        assert len(set(drawn[start : start + 10])) == 10


def test_clips_and_unclear_photos_are_no_challenges() -> None:
    more = [SampleMetadata("clip.mp4", "clip", True), SampleMetadata("unclear.jpg", "photo", True, ignore=True)]
    with pytest.raises(ConfigError, match="a holds no photo with active road work"):
        draw_challenges([Album("a", 0, 5, more=more)], 10, seed=1)


def test_the_same_seed_makes_the_same_challenges_and_another_one_others(tmp_path: Path) -> None:
    album = Album("a", 4, 4)

    def made(seed: int) -> list[bytes]:
        (folder := tmp_path / str(len(list(tmp_path.iterdir())))).mkdir()
        drawn = draw_challenges([album], 12, seed)
        assert write_challenges([album], drawn, folder, seed, lambda: None) == []
        return [sample.data for sample in samples(drawn, folder)]

    first = made(1)
    assert first == made(1) and first != made(2) and len(first) == 12


def test_challenges_come_in_drawing_order_with_their_augmentation_and_corrupt_files_are_listed(tmp_path: Path) -> None:
    albums, done = [Album("a", 3, 3, corrupt=(0,)), Album("b", 3, 3)], list[int]()
    drawn = draw_challenges(albums, 30, seed=3)
    failed = write_challenges(albums, drawn, tmp_path, 3, lambda: done.append(1))
    corrupt = [each for each in drawn if each.source == 0 and each.item.at == "0"]
    assert corrupt and len(failed) == len(corrupt) and {each.message for each in failed} == {"is gone"}
    there = [each for each in drawn if each not in corrupt]
    assert [sample.metadata.tags for sample in samples(drawn, tmp_path)] == [(each.augmentation,) for each in there]
    names = [sample.metadata.name for sample in samples(drawn, tmp_path)]
    assert names == [f"{each.number:05}-{each.item.metadata.name}" for each in there] and len(done) == 30


def test_a_file_that_is_no_image_is_listed_as_failed(tmp_path: Path) -> None:
    class Text(Album):
        def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
            return (Sample(each.metadata, b"no picture") for each in wanted)

    album = Text("a", 1, 1)
    failed = write_challenges([album], [Challenge(0, 0, album.items()[0], "whole")], tmp_path, 1, lambda: None)
    assert [each.name for each in failed] == ["a-0.jpg"] and "cannot identify" in failed[0].message


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("width", "height"), [(640, 360), (224, 224), (300, 900)])
def test_old_augmentations_are_small_squares(seed: int, width: int, height: int) -> None:
    for augmentation in ("augmented", "letterboxed"):
        image = shown(challenge(jpeg(width, height), augmentation, random.Random(seed)))
        assert (image.size, image.format, image.mode) == ((SIDE, SIDE), "JPEG", "RGB")


def test_a_whole_image_keeps_its_size_and_is_upright() -> None:
    image = Image.open(io.BytesIO(jpeg(640, 360)))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(turned := io.BytesIO(), "JPEG", exif=exif)
    assert shown(challenge(turned.getvalue(), "whole", random.Random(1))).size == (360, 640)


def test_a_letterboxed_image_has_black_bars_around_the_whole_image() -> None:
    image = np.asarray(shown(challenge(jpeg(448, 224), "letterboxed", random.Random(1))))
    assert image[:50].max() < 12 and image[-50:].max() < 12
    assert image[SIDE // 2, 3, 0] < 25 and image[SIDE // 2, -3, 0] > 230


def test_augmented_images_come_in_four_strengths_from_a_crop_to_noise_and_blur() -> None:
    plain = challenge(jpeg(), "augmented", _Always(0))
    assert np.asarray(shown(plain))[:, :, 1].std() < 3
    weak, strong = (np.asarray(shown(challenge(jpeg(), "augmented", _Always(at))), float) for at in (2, 3))
    assert weak[:, :, 1].mean() < 120 and strong[:, :, 1].mean() < weak[:, :, 1].mean(), "ever darker"


def test_the_reward_uses_the_label_that_the_miner_sends(tmp_path: Path) -> None:
    """A policy may have a threshold other than 0.5: the miner sends a probability on the label's side."""
    rows = [row(at, label=at % 2 == 0, predicted=at % 2 == 0, probability=0.4 + 0.01 * (at % 2)) for at in range(60)]
    buffer = subnet_score(rows)
    assert buffer.challenges == 60 and buffer.reward > 0.9
    assert buffer.score == pytest.approx(0.95, abs=0.02), "sixty steps of a moving average from 0"
    assert {augmentation: part.n for augmentation, part in buffer.by_augmentation.items()} == dict.fromkeys(
        AUGMENTATIONS, 20
    )
    wrong = subnet_score([row(at, label=at % 2 == 0, predicted=at % 2 == 1, probability=0.9) for at in range(60)])
    assert wrong.reward == 0 and wrong.by_augmentation["whole"].accuracy == 0


class _Always(random.Random):
    """A random generator that chooses one strength, and the maximum of each distortion."""

    def __init__(self, strength: int) -> None:
        super().__init__(1)
        self._strength = strength

    def randrange(self, start: int, *_: object, **__: object) -> int:
        return self._strength if start == 4 else 7

    def randint(self, a: int, b: int) -> int:
        return b


def row(at: int, label: bool, predicted: bool, probability: float) -> EvaluationRow:
    metadata = SampleMetadata(f"{at}.jpg", "photo", label, tags=(AUGMENTATIONS[at % 3],))
    return EvaluationRow(metadata, probability, predicted, "backbone", "above_band", False, ())
