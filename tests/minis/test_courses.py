"""One step of each course on a few scenes: targets fit outputs, and the loss can be lowered."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roadwork_serve.engines.transformers import Prompt, VisionLanguageEngine
from roadwork_serve.minis import data
from roadwork_serve.minis.data import Cache, RealPhoto
from roadwork_serve.minis.describe import KINDS, coverage
from roadwork_serve.minis.tokenizer import MOLMO_SPECIAL, QWEN_SPECIAL, train_tokenizer
from roadwork_serve.minis.train_backbone import BackboneCourse
from roadwork_serve.minis.train_video import VideoCourse, as_patches
from roadwork_serve.minis.train_vlm import VlmCourse, merge_order
from roadwork_serve.scenes.truth import Thing, Truth
from roadwork_serve.stages.prompts import QUESTION, THINKING_QUESTION


@pytest.fixture(scope="module")
def stills() -> Cache:
    photos = data.render_photos([1, 2, 3, 4])
    few = [i % 4 for i in range(32)]  # one batch of the backbone
    return Cache((photos.thumbs[few],), tuple(photos.jpegs[i] for i in few), tuple(photos.truths[i] for i in few), (0,))


@pytest.fixture(scope="module")
def clips() -> Cache:
    few = data.render_clips([1, 2])
    return Cache((few.frames[[0, 1] * 4],), (), few.truths * 4, (0,))


@pytest.fixture
def real() -> list[RealPhoto]:
    return [RealPhoto(Image.new("RGB", (300, 200), "grey"), False, "a")]


def descends(course: BackboneCourse | VlmCourse | VideoCourse) -> bool:
    """Whether a step against the gradient lowers the loss of the same batch."""
    torch.manual_seed(0)
    course.learner.eval()
    batch = next(course.batches(0))
    before = course.loss(batch, 0.9)
    before.backward()
    with torch.no_grad():
        for p in course.learner.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad
        return course.loss(batch, 0.9).item() < before.item()


def test_backbone(stills: Cache, real: list[RealPhoto]) -> None:
    course = BackboneCourse(stills, stills, real)
    assert descends(course)
    assert course.check(course.learner).startswith("all ")


def test_weights_that_were_saved_can_be_gone_on_with(stills: Cache, clips: Cache, tmp_path: Path) -> None:
    vlm_words, video_words = (train_tokenizer(special, stills.truths) for special in (QWEN_SPECIAL, MOLMO_SPECIAL))
    makers = (
        lambda: BackboneCourse(stills, stills, []),
        lambda: VlmCourse(stills, stills, [], vlm_words, None),
        lambda: VideoCourse(clips, clips, video_words, None),
    )
    for make in makers:
        taught, again = make(), make()
        taught.save(taught.learner, tmp_path / taught.name)
        again.take_up(tmp_path / taught.name)
        kept = taught.learner.backbone if taught.name == "backbone" else taught.learner.model
        mine = again.learner.backbone if taught.name == "backbone" else again.learner.model
        for name, weight in kept.float().state_dict().items():
            assert torch.equal(mine.state_dict()[name], weight), name


def test_vlm(stills: Cache, real: list[RealPhoto], tmp_path: Path) -> None:
    course = VlmCourse(stills, stills, real, train_tokenizer(QWEN_SPECIAL, stills.truths), None)
    assert descends(course)
    course.save(course.learner, tmp_path)
    assert VisionLanguageEngine(str(tmp_path)).model.config.model_type == "qwen3_vl"


def test_video(clips: Cache, tmp_path: Path) -> None:
    course = VideoCourse(clips, clips, train_tokenizer(MOLMO_SPECIAL, clips.truths), None)
    assert descends(course)
    course.save(course.learner, tmp_path)
    assert VisionLanguageEngine(str(tmp_path)).model.config.model_type == "molmo2"


def test_vlm_trains_on_the_text_that_is_asked_later(stills: Cache, tmp_path: Path) -> None:
    course = VlmCourse(stills, stills, [], train_tokenizer(QWEN_SPECIAL, stills.truths), None)
    course.save(course.learner, tmp_path)
    engine = VisionLanguageEngine(str(tmp_path))
    batch = next(course.batches(0))
    for thinking, text in ((False, batch.ids[0]), (True, batch.ids[len(batch.grids)])):
        question = THINKING_QUESTION if thinking else QUESTION
        asked = engine.encode([Prompt(question, (Image.new("RGB", (64, 64)),))], thinking)["input_ids"][0].tolist()
        image = engine.model.config.image_token_id
        taught = [i for i in text.tolist() if i != image]
        asked = [i for i in asked if i != image]
        assert taught[: len(asked)] == asked


def test_patches_are_those_of_the_video_processor(clips: Cache) -> None:
    course = VideoCourse(clips, clips, train_tokenizer(MOLMO_SPECIAL, clips.truths), None)
    frames = clips.frame(0)
    theirs = course.processor.video_processor([torch.from_numpy(frames).permute(0, 3, 1, 2)], do_sample_frames=False)
    assert np.allclose(as_patches(torch.from_numpy(frames)), theirs["pixel_values_videos"], atol=1e-3)


def test_merge_order_keeps_blocks_of_patches_together() -> None:
    truth = Truth(1, "photo", True, "vlm", "working", (Thing("cone", (0.25, 0.0, 0.5, 0.25)),), ())
    shown = merge_order(coverage(truth, 4, 4).reshape(4, 4, -1))
    # Row 0, column 1 is the second patch of the first block of 2 x 2.
    assert shown[:, KINDS.index("cone")].nonzero()[0].tolist() == [1]
