"""One step of each training task on a few scenes: targets fit outputs, and the loss can be lowered."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DINOv3ViTModel

from roadwork_serve.engines.transformers import Prompt, VisionLanguageEngine
from roadwork_serve.profiles.task import default_task
from roadwork_serve.testbed.minis import architectures, data, train_backbone, train_tower, train_video, train_vlm
from roadwork_serve.testbed.minis.data import Cache, RealPhoto
from roadwork_serve.testbed.minis.describe import KINDS, coverage
from roadwork_serve.testbed.minis.tokenizer import MOLMO_SPECIAL, QWEN_SPECIAL, train_tokenizer
from roadwork_serve.testbed.minis.train_backbone import BackboneTask
from roadwork_serve.testbed.minis.train_tower import SIDE, TowerTask, crop_of
from roadwork_serve.testbed.minis.train_video import VideoTask, as_patches, targets
from roadwork_serve.testbed.minis.train_vlm import VlmTask, merge_order
from roadwork_serve.testbed.scenes import Moment
from roadwork_serve.testbed.scenes.truth import Thing, Truth


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (train_backbone, train_tower, train_video):
        monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(train_vlm, "BATCH", 2)


@pytest.fixture(scope="module")
def stills() -> Cache:
    photos = data.render_photos([1, 2, 3, 4])
    few = [i % 4 for i in range(8)]
    return Cache((photos.thumbs[few],), tuple(photos.jpegs[i] for i in few), tuple(photos.truths[i] for i in few), (0,))


@pytest.fixture(scope="module")
def clips() -> Cache:
    few = data.render_clips([1, 2])
    return Cache((few.frames[[0, 1] * 2],), (), few.truths * 2, (0,))


@pytest.fixture
def real() -> list[RealPhoto]:
    return [RealPhoto(Image.new("RGB", (300, 200), "grey"), False, "a")]


def descends(task: BackboneTask | TowerTask | VlmTask | VideoTask) -> bool:
    """Return whether a gradient step lowers the loss of the same batch."""
    torch.manual_seed(0)
    task.module.eval()
    batch = next(task.batches(0))
    before = task.loss(batch, 0.9)
    before.backward()
    with torch.no_grad():
        for p in task.module.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad
        return task.loss(batch, 0.9).item() < before.item()


def test_backbone(stills: Cache, real: list[RealPhoto]) -> None:
    task = BackboneTask(stills, stills, real)
    assert descends(task)
    assert task.check(task.module).startswith("all ")


def test_tower(stills: Cache, tmp_path: Path) -> None:
    task = TowerTask(stills, stills, None)
    assert descends(task)
    assert task.check(task.module).startswith("average precision 0.")
    task.save(task.module, tmp_path)
    assert DINOv3ViTModel.from_pretrained(tmp_path).config.num_hidden_layers == architectures.VLM_LAYERS


def test_a_crop_keeps_its_ground_truth(stills: Cache) -> None:
    truth = Truth(1, "photo", True, "vlm", "working", (Thing("cone", (0.5, 0.5, 0.75, 0.75)),), ())
    still = Image.new("RGB", (448, 448), "grey")
    still.paste("red", (224, 224, 336, 336))
    for seed in range(20):
        crop, kept = crop_of(still, truth, np.random.default_rng(seed))
        assert crop.size == (SIDE, SIDE)
        red = np.asarray(crop)[..., 0] > 200
        x0, y0, x1, y1 = (round(share * SIDE) for share in kept.things[0].box)
        inside = np.zeros_like(red)
        inside[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = True
        assert (red != inside).mean() < 0.02


def test_attention_within_images_matches_the_model(stills: Cache) -> None:
    task = VlmTask(stills, stills, [], train_tokenizer(QWEN_SPECIAL, stills.truths), None)
    batch, tower = next(task.batches(0)), task.module.model.model.visual.eval()
    with torch.no_grad():
        mine = tower(batch.pixels, batch.grids).pooler_output
        tower.config._attn_implementation = "sdpa"
        theirs = tower(batch.pixels, batch.grids).pooler_output
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_targets_of_a_frame_contain_arm_positions_and_activity() -> None:
    machine = Thing("machine", (0.2, 0.2, 0.6, 0.6), moving=True)
    truth = Truth(1, "clip", True, "video", "working", (machine,), ())
    kinds, arms, work = targets(truth, Moment((machine,), (-0.5,)))
    assert kinds[3, 3, KINDS.index("machine")] == 1 and kinds[9, 9].sum() == 0
    assert arms[3, 3] == -0.5 and np.isnan(arms[9, 9])
    assert work[1, 1].tolist() == [1, 0] and work[4, 4].tolist() == [0, 0]
    still = replace(machine, moving=False)
    assert targets(replace(truth, things=(still,)), Moment((still,), (None,)))[2][1, 1].tolist() == [0, 1]


def test_training_resumes_from_saved_weights(stills: Cache, clips: Cache, tmp_path: Path) -> None:
    vlm_words, video_words = (train_tokenizer(special, stills.truths) for special in (QWEN_SPECIAL, MOLMO_SPECIAL))
    makers = (
        lambda: BackboneTask(stills, stills, []),
        lambda: VlmTask(stills, stills, [], vlm_words, None),
        lambda: VideoTask(clips, clips, video_words, None),
    )
    for make in makers:
        first, again = make(), make()
        first.save(first.module, tmp_path / first.name)
        again.load_weights(tmp_path / first.name)
        kept = first.module.backbone if first.name == "backbone" else first.module.model
        mine = again.module.backbone if first.name == "backbone" else again.module.model
        for name, weight in kept.float().state_dict().items():
            assert torch.equal(mine.state_dict()[name], weight), name


def test_vlm(stills: Cache, real: list[RealPhoto], tmp_path: Path) -> None:
    task = VlmTask(stills, stills, real, train_tokenizer(QWEN_SPECIAL, stills.truths), None)
    assert descends(task)
    task.save(task.module, tmp_path)
    assert VisionLanguageEngine(str(tmp_path)).model.config.model_type == "qwen3_vl"


def test_video(clips: Cache, tmp_path: Path) -> None:
    task = VideoTask(clips, clips, train_tokenizer(MOLMO_SPECIAL, clips.truths), None)
    assert descends(task)
    task.save(task.module, tmp_path)
    assert VisionLanguageEngine(str(tmp_path)).model.config.model_type == "molmo2"


def test_the_vlm_trains_on_the_prompts_of_serving(stills: Cache, tmp_path: Path) -> None:
    task = VlmTask(stills, stills, [], train_tokenizer(QWEN_SPECIAL, stills.truths), None)
    task.save(task.module, tmp_path)
    engine = VisionLanguageEngine(str(tmp_path))
    batch = next(task.batches(0))
    for thinking, text in ((False, batch.ids[0]), (True, batch.ids[len(batch.grids)])):
        question = default_task().reasoning_prompt() if thinking else default_task().prompt()
        asked = engine.encode([Prompt(question, (Image.new("RGB", (64, 64)),))], thinking)["input_ids"][0].tolist()
        image = engine.model.config.image_token_id
        first = [i for i in text.tolist() if i != image]
        asked = [i for i in asked if i != image]
        assert first[: len(asked)] == asked


def test_patches_match_the_video_processor(clips: Cache) -> None:
    task = VideoTask(clips, clips, train_tokenizer(MOLMO_SPECIAL, clips.truths), None)
    frames = clips.frame(0)
    theirs = task.processor.video_processor([torch.from_numpy(frames).permute(0, 3, 1, 2)], do_sample_frames=False)
    assert np.allclose(as_patches(torch.from_numpy(frames)), theirs["pixel_values_videos"], atol=1e-3)


def test_merge_order_keeps_blocks_of_patches_together() -> None:
    truth = Truth(1, "photo", True, "vlm", "working", (Thing("cone", (0.25, 0.0, 0.5, 0.25)),), ())
    targets_by_patch = merge_order(coverage(truth, 4, 4).reshape(4, 4, -1))
    # Row 0, column 1 is the second patch of the first block of 2 x 2.
    assert targets_by_patch[:, KINDS.index("cone")].nonzero()[0].tolist() == [1]


def test_fewer_images_than_a_batch_are_a_smaller_batch() -> None:
    assert [each.tolist() for each in data.in_batches(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5]]
    assert [each.tolist() for each in data.in_batches(np.arange(2), 3)] == [[0, 1]]
