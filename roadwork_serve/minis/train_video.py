"""Teaches the miniature of stage 3B: whether what stands at the roadside in a clip is at work."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DINOv3ViTModel, Molmo2ForConditionalGeneration

from roadwork_serve.minis import architectures
from roadwork_serve.minis.data import CLIP_FRAMES, CLIP_SIDE, Cache
from roadwork_serve.minis.describe import KINDS, coverage
from roadwork_serve.minis.score import by_needs
from roadwork_serve.scenes.truth import Truth
from roadwork_serve.stages.prompts import CLIP_QUESTION

BATCH = 8
PATCHES = CLIP_SIDE // 16
CELLS = PATCHES // 2
AT_WORK, STANDING = 0, 1


class Learner(nn.Module):
    """The model, and two helpers: what each patch of a frame shows, and what of it moves as work does."""

    def __init__(self, tokenizer: Any, teacher: DINOv3ViTModel | None) -> None:
        super().__init__()
        self.model: Any = architectures.video(tokenizer)
        self.model.model.vision_tower.config._attn_implementation = "eager"  # trains faster than sdpa on a CPU
        if teacher:
            architectures.start_molmo_tower(self.model.model.vision_tower, teacher)
        self.patches = nn.Linear(architectures.WIDTH, len(KINDS))
        self.moves = nn.Linear(architectures.TEXT_WIDTH, 2)
        nn.init.constant_(self.patches.bias, -4.0)
        nn.init.constant_(self.moves.bias, -3.0)


@dataclass(frozen=True)
class Batch:
    """frames: uint8 [n, 8, 160, 160, 3]; dense: [n, 100, kinds] of the first frame; moves: [n, 25, 2]; labels: [n]."""

    frames: Tensor
    dense: Tensor
    moves: Tensor
    labels: Tensor


class VideoCourse:
    """See `loop.Course`."""

    name = "video"

    def __init__(self, clips: Cache, check: Cache, tokenizer: Any, teacher: DINOv3ViTModel | None) -> None:
        self.clips, self.checks = clips, check
        self.tokenizer: Any = tokenizer
        self.processor: Any = architectures.video_processor(tokenizer)
        self.learner = Learner(tokenizer, teacher)
        self.yes, self.no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("YES", "NO"))
        self._prompt, self._pooling = self._template()

    def _template(self) -> tuple[Tensor, Tensor]:
        """Token ids of the prompt [tokens] and pooling windows [image tokens, 4]: the same for every rendered clip."""
        content = [{"type": "video"}, {"type": "text", "text": CLIP_QUESTION}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        stamps = [250 * i for i in range(CLIP_FRAMES)]
        meta = {
            "fps": 1000.0,
            "frames_indices": stamps,
            "total_num_frames": stamps[-1] + 1,
            "duration": (stamps[-1] + 1) / 1000,
        }
        frames = np.zeros((CLIP_FRAMES, CLIP_SIDE, CLIP_SIDE, 3), np.uint8)
        inputs = self.processor(
            text=[text], videos=[frames], video_metadata=[meta], do_sample_frames=False, return_tensors="pt"
        )
        return inputs["input_ids"][0], inputs["video_token_pooling"]

    def size(self, batch: Batch) -> int:
        return len(batch.frames)

    def batches(self, seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.clips))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                yield self._batch(order[start : start + BATCH], rng)

    def _batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        frames, dense, moves = [], [], []
        for i in chosen:
            clip, truth = self.clips.frame(int(i)), self.clips.truths[i]
            shown = coverage(truth, PATCHES, PATCHES).reshape(PATCHES, PATCHES, -1)
            work = moving(truth)
            if rng.random() < 0.5:
                clip, shown, work = clip[:, :, ::-1], shown[:, ::-1], work[:, ::-1]
            gain, lift = rng.uniform(0.82, 1.2) * rng.uniform(0.95, 1.05, 3), rng.uniform(-14, 14)
            frames.append(np.clip(clip * gain.astype(np.float32) + np.float32(lift), 0, 255).astype(np.uint8))
            dense.append(shown.reshape(-1, len(KINDS)))
            moves.append(work.reshape(-1, 2))
        labels = torch.tensor([float(self.clips.truths[i].label) for i in chosen])
        return Batch(
            torch.from_numpy(np.stack(frames)),
            torch.from_numpy(np.stack(dense)),
            torch.from_numpy(np.stack(moves)),
            labels,
        )

    def _run(self, learner: Any, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer logits [n], patch logits of the first frames [n, 100, kinds], movement logits [n, 8, 25, 2]."""
        n, core = len(frames), learner.model.model
        pixels = as_patches(frames.flatten(0, 1))
        pooling = torch.cat([self._pooling + i * CLIP_FRAMES * PATCHES**2 for i in range(n)])
        grids = torch.tensor([[CLIP_FRAMES, CELLS, CELLS]] * n)
        ids = self._prompt.expand(n, -1)
        shown = ids == core.config.image_patch_id
        seen = core.get_video_features(pixels, pooling, grids, return_dict=True)
        hidden = core(
            input_ids=ids, mm_token_type_ids=shown.long(), mm_encoder_outputs={"video": seen}, use_cache=False
        )
        hidden = hidden.last_hidden_state
        answer = learner.model.lm_head(hidden[:, -1])
        first = seen.last_hidden_state.unflatten(0, (n, CLIP_FRAMES))[:, 0]
        cells = hidden[shown].view(n, CLIP_FRAMES, CELLS * CELLS, -1)
        return answer, learner.patches(first), learner.moves(cells)

    def loss(self, batch: Batch, progress: float) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            answer, patches, moves = self._run(self.learner, batch.frames)
        target = torch.where(batch.labels > 0, self.yes, self.no)
        said = F.cross_entropy(answer.float(), target)
        patch = F.binary_cross_entropy_with_logits(patches.float(), batch.dense, 1 + 3 * batch.dense, reduction="none")
        moved = batch.moves[:, None].expand_as(moves)
        move = F.binary_cross_entropy_with_logits(moves.float(), moved, 1 + 3 * moved, reduction="none")
        return said + patch.sum(2).mean() + 2.0 * move.sum(3).mean()

    @torch.inference_mode()
    def check(self, learner: Any) -> str:
        found = []
        for start in range(0, len(self.checks), 10):
            frames = np.stack([self.checks.frame(i) for i in range(start, min(start + 10, len(self.checks)))])
            with torch.autocast("cpu", torch.bfloat16):
                answer = self._run(learner, torch.from_numpy(frames))[0].float()
            found.append(torch.sigmoid(answer[:, self.yes] - answer[:, self.no]).numpy())
        return by_needs(np.concatenate(found), self.checks.truths)

    def save(self, learner: Any, out: Path) -> None:
        learner.model.model.vision_tower.config._attn_implementation = "sdpa"
        architectures.save_checkpoint(learner.model, self.processor, out)

    def take_up(self, folder: Path) -> None:
        self.learner.model.load_state_dict(Molmo2ForConditionalGeneration.from_pretrained(folder).float().state_dict())


def as_patches(frames: Tensor) -> Tensor:
    """uint8 [n, side, side, 3] -> [n, patches, 16 * 16 * 3], normalised, as Molmo 2's video processor lays them out."""
    n, pixels = len(frames), frames.float() / 127.5 - 1
    return pixels.view(n, PATCHES, 16, PATCHES, 16, 3).transpose(2, 3).reshape(n, PATCHES * PATCHES, -1)


def moving(truth: Truth) -> np.ndarray:
    """[5, 5, 2]: cells with a worker or machine at work, and with one that only stands there."""
    shown = coverage(truth, CELLS, CELLS).reshape(CELLS, CELLS, -1)
    target = np.zeros((CELLS, CELLS, 2), np.float32)
    busy = {t.kind for t in truth.things if t.moving}
    for kind in ("worker", "machine"):
        target[..., AT_WORK if kind in busy else STANDING] += shown[..., KINDS.index(kind)]
    return target.clip(0, 1)
