"""Trains the miniature of stage 3B: is the machine or worker at the roadside of a clip at work."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DINOv3ViTModel, Molmo2ForConditionalGeneration

from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis import architectures
from roadwork_serve.testbed.minis.accuracy import by_needs
from roadwork_serve.testbed.minis.data import CLIP_FRAMES, CLIP_SIDE, Cache, in_batches
from roadwork_serve.testbed.minis.describe import KINDS, coverage
from roadwork_serve.testbed.minis.prompts import CLIP_QUESTION
from roadwork_serve.testbed.scenes import Moment
from roadwork_serve.testbed.scenes.truth import Truth

BATCH = 16
FRAMES = 4  # of the eight in the cache: half the cost, and movement is still visible
PATCHES = CLIP_SIDE // 16
CELLS = PATCHES // 2
AT_WORK, STANDING = 0, 1


class VideoTrainingModule(nn.Module):
    """The model, and four auxiliary layers.

    Per patch they predict the kinds of thing and how far an arm is raised; per cell how far that arm moved since the
    frame before, and whether the thing is at work. The last alone learns nothing for hours: movement in either
    direction is not a linear function of two frames, its signed size is.
    """

    def __init__(self, tokenizer: Any, teacher: DINOv3ViTModel | None) -> None:
        super().__init__()
        self.model: Any = architectures.video(tokenizer)
        self.model.set_attn_implementation("eager")  # trains faster than sdpa on a CPU
        if teacher:
            architectures.start_molmo_tower(self.model.model.vision_tower, teacher)
        self.patches = nn.Linear(architectures.WIDTH, len(KINDS))
        self.swings = nn.Linear(architectures.WIDTH, 1)
        self.changes = nn.Linear(architectures.TEXT_WIDTH, 1)
        self.moves = nn.Linear(architectures.TEXT_WIDTH, 2)
        nn.init.constant_(self.patches.bias, -4.0)
        nn.init.constant_(self.moves.bias, -3.0)


@dataclass(frozen=True)
class Batch:
    """A batch of clips with targets for every frame."""

    #: uint8 [n, 4, 160, 160, 3].
    frames: Tensor
    #: Kinds of thing in each patch, [n, 4, 100, kinds].
    dense: Tensor
    #: How far the arm in a patch is raised, [n, 4, 100]; NaN without an arm.
    swings: Tensor
    #: Whether a cell shows something at work or standing, [n, 4, 25, 2].
    moves: Tensor
    labels: Tensor


class _Output(NamedTuple):
    """Outputs of the model and of the auxiliary layers; the last three start at the second frame."""

    #: Logits of the next token, [n, vocabulary].
    answer: Tensor
    #: Features of the patches, [n, 4, 100, width].
    features: Tensor
    #: Logits, [n, 3, 25, 2].
    moves: Tensor
    #: Change of the arm since the frame before, [n, 3, 25].
    changes: Tensor
    #: Attention of one head of the first layer to the same cell a frame before, [n, 3, 25]. It is trained for: a model
    #: this small does not learn within hours to compare frames by itself.
    back: Tensor


class VideoTask:
    """See `TrainingTask`."""

    name = "video"

    def __init__(
        self, clips: Cache, check: Cache, tokenizer: Any, teacher: DINOv3ViTModel | None, compiled: bool = False
    ) -> None:
        self.clips, self.checks = clips, check
        self._to_compile = compiled
        # Sampled twice as often as the others.
        self._settled_by_movement = np.flatnonzero([truth.needs == "video" for truth in clips.truths])
        self.tokenizer: Any = tokenizer
        self.processor: Any = architectures.video_processor(tokenizer)
        self.module = VideoTrainingModule(tokenizer, teacher)
        self.yes, self.no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("YES", "NO"))
        self._prompt, self._pooling = self._template()

    def _template(self) -> tuple[Tensor, Tensor]:
        """Return the prompt's token ids [tokens] and pooling windows [image tokens, 4], the same for every clip."""
        content = [{"type": "video"}, {"type": "text", "text": CLIP_QUESTION}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        stamps = [125 + 500 * i for i in range(FRAMES)]
        meta = {
            "fps": 1000.0,
            "frames_indices": stamps,
            "total_num_frames": stamps[-1] + 1,
            "duration": (stamps[-1] + 1) / 1000,
        }
        frames = np.zeros((FRAMES, CLIP_SIDE, CLIP_SIDE, 3), np.uint8)
        inputs = self.processor(
            text=[text], videos=[frames], video_metadata=[meta], do_sample_frames=False, return_tensors="pt"
        )
        return inputs["input_ids"][0], inputs["video_token_pooling"]

    def size(self, batch: Batch) -> int:
        """See `TrainingTask`."""
        return len(batch.frames)

    def batches(self, seed: int) -> Iterator[Batch]:
        """See `TrainingTask`."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(np.concatenate([np.arange(len(self.clips)), self._settled_by_movement]))
            for chosen in in_batches(order, BATCH):
                yield self._batch(chosen, rng)

    def _batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        frames, dense, swings, moves = [], [], [], []
        for i in chosen:
            clip, truth = self.clips.frame(int(i)), self.clips.truths[i]
            order = np.arange(int(rng.integers(2)), CLIP_FRAMES, CLIP_FRAMES // FRAMES)[:: rng.choice((-1, 1))]
            moments = scenes.clip_moments(truth.seed, CLIP_FRAMES)
            is_image = [targets(truth, moments[k]) for k in order]
            clip, (kinds, arms, work) = clip[order], (np.stack(part) for part in zip(*is_image, strict=True))
            if rng.random() < 0.5:
                clip, kinds, arms, work = clip[:, :, ::-1], kinds[:, :, ::-1], arms[:, :, ::-1], work[:, :, ::-1]
            gain, lift = rng.uniform(0.82, 1.2) * rng.uniform(0.95, 1.05, 3), rng.uniform(-14, 14)
            frames.append(np.clip(clip * gain.astype(np.float32) + np.float32(lift), 0, 255).astype(np.uint8))
            dense.append(kinds.reshape(FRAMES, PATCHES * PATCHES, -1))
            swings.append(arms.reshape(FRAMES, -1))
            moves.append(work.reshape(FRAMES, CELLS * CELLS, 2))
        labels = torch.tensor([float(self.clips.truths[i].label) for i in chosen])
        pixels, kinds, arms, work = (torch.from_numpy(np.stack(part)) for part in (frames, dense, swings, moves))
        return Batch(pixels, kinds, arms, work, labels)

    def _run(self, module: Any, frames: Tensor) -> "_Output":
        n, core = len(frames), module.model.model
        pixels = as_patches(frames.flatten(0, 1))
        pooling = torch.cat([self._pooling + i * FRAMES * PATCHES**2 for i in range(n)])
        grids = torch.tensor([[FRAMES, CELLS, CELLS]] * n)
        ids = self._prompt.expand(n, -1)
        is_image = ids == core.config.image_patch_id
        seen = core.get_video_features(pixels, pooling, grids, return_dict=True)
        out = core(
            input_ids=ids,
            mm_token_type_ids=is_image.long(),
            mm_encoder_outputs={"video": seen},
            use_cache=False,
            output_attentions=True,
        )
        hidden = out.last_hidden_state
        cells = hidden[is_image].view(n, FRAMES, CELLS * CELLS, -1)
        at = is_image[0].nonzero()[:, 0].view(FRAMES, CELLS * CELLS)
        back = out.attentions[0][:, 0, at[1:], at[:-1]]
        return _Output(
            module.model.lm_head(hidden[:, -1]),
            seen.last_hidden_state.unflatten(0, (n, FRAMES)),
            module.moves(cells[:, 1:]),
            module.changes(cells[:, 1:])[..., 0],
            back,
        )

    def loss(self, batch: Batch, progress: float) -> Tensor:
        """See `TrainingTask`."""
        if self._to_compile:  # only now: a compiled module must not be copied for the average
            for layer in self.module.model.model.vision_tower.layers:
                layer.compile(dynamic=False)
            self._to_compile = False
        with torch.autocast("cpu", torch.bfloat16):
            seen = self._run(self.module, batch.frames)
            patches = self.module.patches(seen.features).float()
            swings = self.module.swings(seen.features)[..., 0].float()
        target = torch.where(batch.labels > 0, self.yes, self.no)
        answer_loss = F.cross_entropy(seen.answer.float(), target)
        patch = F.binary_cross_entropy_with_logits(patches, batch.dense, 1 + 3 * batch.dense, reduction="none")
        work = batch.moves[:, 1:]
        move = F.binary_cross_entropy_with_logits(seen.moves.float(), work, 1 + 3 * work, reduction="none")
        raised = known_error(swings, batch.swings)
        by_place = batch.swings.unflatten(2, (CELLS, 2, CELLS, 2)).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
        there = by_place.nanmean(-1)
        changed = known_error(seen.changes.float(), there[:, 1:] - there[:, :-1])
        back = -seen.back.float().clamp(min=1e-4).log().mean()
        return answer_loss + patch.sum(3).mean() + 4.0 * raised + 4.0 * changed + 4.0 * move.sum(3).mean() + 0.3 * back

    @torch.inference_mode()
    def check(self, module: Any) -> str:
        """See `TrainingTask`."""
        found = []
        for start in range(0, len(self.checks), 10):
            some = range(start, min(start + 10, len(self.checks)))
            frames = np.stack([self.checks.frame(i)[:: CLIP_FRAMES // FRAMES] for i in some])
            with torch.autocast("cpu", torch.bfloat16):
                answer = self._run(module, torch.from_numpy(frames)).answer.float()
            found.append(torch.sigmoid(answer[:, self.yes] - answer[:, self.no]).numpy())
        return by_needs(np.concatenate(found), self.checks.truths)

    def save(self, module: Any, out: Path) -> None:
        """See `TrainingTask`."""
        module.model.set_attn_implementation("sdpa")
        architectures.save_checkpoint(module.model, self.processor, out)

    def load_weights(self, folder: Path) -> None:
        """See `TrainingTask`."""
        self.module.model.load_state_dict(Molmo2ForConditionalGeneration.from_pretrained(folder).float().state_dict())


def known_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared error over entries whose truth is known (not NaN)."""
    known = ~truth.isnan()
    return (predicted - truth.nan_to_num()).square()[known].sum() / known.sum().clamp(min=1)


def as_patches(frames: Tensor) -> Tensor:
    """Reshape uint8 [n, side, side, 3] to normalised [n, patches, 16 * 16 * 3], as Molmo 2's video processor does."""
    n, pixels = len(frames), frames.float() / 127.5 - 1
    return pixels.view(n, PATCHES, 16, PATCHES, 16, 3).transpose(2, 3).reshape(n, PATCHES * PATCHES, -1)


def targets(truth: Truth, moment: Moment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return targets of a frame: kinds [10, 10, kinds], arms [10, 10] (NaN for none), at work or standing [5, 5, 2]."""
    seen = replace(truth, things=moment.things)
    cells = coverage(seen, CELLS, CELLS).reshape(CELLS, CELLS, -1)
    work = np.zeros((CELLS, CELLS, 2), np.float32)
    busy = {t.kind for t in truth.things if t.moving}
    for kind in ("worker", "machine"):
        work[..., AT_WORK if kind in busy else STANDING] += cells[..., KINDS.index(kind)]
    arms = np.full((PATCHES, PATCHES), np.nan, np.float32)
    for thing, swing in zip(moment.things, moment.swings, strict=True):
        if swing is not None:
            arms[coverage(replace(truth, things=(thing,)), PATCHES, PATCHES).any(1).reshape(PATCHES, PATCHES)] = swing
    return coverage(seen, PATCHES, PATCHES).reshape(PATCHES, PATCHES, -1), arms, work.clip(0, 1)
