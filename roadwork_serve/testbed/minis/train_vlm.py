"""Trains the miniature of stages 2B and 3A: YES or NO at once, and YES or NO after a short reasoning text."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, DINOv3ViTModel, Qwen3VLForConditionalGeneration

from roadwork_serve.engines.transformers import embed_patches_by_matmul
from roadwork_serve.testbed.minis import architectures
from roadwork_serve.testbed.minis.accuracy import by_needs
from roadwork_serve.testbed.minis.data import LONG_SIDE, Cache, RealPhoto, in_batches, real_crop, some_real
from roadwork_serve.testbed.minis.describe import KINDS, coverage, scene_reasoning
from roadwork_serve.testbed.minis.prompts import QUESTION, THINKING_QUESTION

BATCH = 16
CHECKED = 320
REASONING_SHARE = 0.5  # fraction of the images that are also trained with a reasoning text
REAL_SHARE = 0.03
UNSUPERVISED = -100
SAME_LENGTH = "flash_same_length"  # "flash" in the name makes the model pass on the length of a picture


class VlmTrainingModule(nn.Module):
    """The model, and an auxiliary layer that classifies each patch."""

    def __init__(self, tokenizer: Any, teacher: DINOv3ViTModel | None) -> None:
        super().__init__()
        self.model: Any = architectures.vlm(tokenizer)
        embed_patches_by_matmul(self.model)
        AttentionInterface.register(SAME_LENGTH, same_length_attention)
        self.model.model.visual.config._attn_implementation = SAME_LENGTH
        self.model.model.language_model.config._attn_implementation = "eager"  # trains faster than sdpa on a CPU
        if teacher:
            architectures.start_qwen_tower(self.model.model.visual, teacher)
        self.patches = nn.Linear(architectures.WIDTH, len(KINDS))
        nn.init.constant_(self.patches.bias, -4.0)


@dataclass(frozen=True)
class Batch:
    """Each image once, with one or two texts: the fast prompts of all images, then the reasoning prompts."""

    pixels: Tensor
    grids: Tensor
    ids: Tensor
    mask: Tensor
    labels: Tensor
    #: Weight of each token's loss, [texts, tokens].
    weights: Tensor
    #: Kinds of thing in each patch, [patches of all images, kinds], in the order of pixels.
    dense: Tensor
    #: Whether dense is known, [patches].
    known: Tensor
    #: Index of the image of each text.
    owners: tuple[int, ...]


class VlmTask:
    """See `TrainingTask`."""

    name = "vlm"

    def __init__(
        self,
        scenes: Cache,
        check: Cache,
        real: list[RealPhoto],
        tokenizer: Any,
        teacher: DINOv3ViTModel | None,
        compiled: bool = False,
    ) -> None:
        self.scenes, self.checks, self.real = scenes, check, real
        self._to_compile = compiled
        self.tokenizer: Any = tokenizer
        self.processor: Any = architectures.vlm_processor(tokenizer)
        self.module = VlmTrainingModule(tokenizer, teacher)
        self._fast = self._around_image(QUESTION, thinking=False)
        self._thinking = self._around_image(THINKING_QUESTION, thinking=True)
        self._image, self._closing = tokenizer.convert_tokens_to_ids("<|image_pad|>"), self._ids("</think>\n\n")
        self._answers = {True: self._ids("YES"), False: self._ids("NO")}
        self._by_shape: dict[tuple[int, int], list[int]] = {}
        for i, jpeg in enumerate(scenes.jpegs):
            self._by_shape.setdefault(served_size(Image.open(io.BytesIO(jpeg))), []).append(i)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _around_image(self, question: str, thinking: bool) -> tuple[list[int], list[int]]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False, enable_thinking=thinking
        )
        before, after = text.split("<|image_pad|>")
        return self._ids(before), self._ids(after)

    def size(self, batch: Batch) -> int:
        """See `TrainingTask`."""
        return len(batch.grids)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield batches of images of one shape, so that nothing is padded."""
        rng = np.random.default_rng(seed)
        while True:
            order = []
            for indices in self._by_shape.values():
                order += in_batches(rng.permutation(indices), BATCH)
            for i in rng.permutation(len(order)):
                yield self._batch(order[i], rng)

    def _batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        images, texts, reasonings, dense, known = [], [], [], [], []
        for i in chosen:
            truth = self.scenes.truths[i]
            image = Image.open(io.BytesIO(self.scenes.jpegs[i])).convert("RGB")
            image = image.resize(served_size(image), Image.Resampling.BILINEAR)
            rows, columns = self._grid(image.size)
            if self.real and rng.random() < REAL_SHARE:
                photo = some_real(self.real, rng)
                images.append(color_jitter(real_crop(photo.image, image.size, rng), rng))
                texts.append(self._text(self._fast, rows * columns // 4, None, photo.label))
                reasonings.append(None)
                dense.append(np.zeros((rows * columns, len(KINDS)), np.float32))
                known.append(np.zeros(rows * columns, np.float32))
                continue
            patch_targets = coverage(truth, rows, columns).reshape(rows, columns, -1)
            if not truth.texts and rng.random() < 0.5:
                image, patch_targets = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), patch_targets[:, ::-1]
            images.append(color_jitter(image, rng))
            texts.append(self._text(self._fast, rows * columns // 4, None, truth.label))
            with_reasoning = rng.random() < REASONING_SHARE
            reasoning = (
                self._text(self._thinking, rows * columns // 4, scene_reasoning(truth), truth.label)
                if with_reasoning
                else None
            )
            reasonings.append(reasoning)
            dense.append(merge_order(patch_targets))
            known.append(np.ones(rows * columns, np.float32))
        texts += [t for t in reasonings if t is not None]
        # A reasoning text belongs to its image; images without one have the fast question only.
        owners = (*range(len(images)), *(i for i, t in enumerate(reasonings) if t is not None))
        pixels = self.processor.image_processor(images, return_tensors="pt")
        ids, labels, weights = (pad_sequence([t[k] for t in texts], batch_first=True, padding_value=v) for k, v in
                                ((0, self.tokenizer.pad_token_id), (1, UNSUPERVISED), (2, 0.0)))  # fmt: skip
        lengths = torch.tensor([len(t[0]) for t in texts])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        patch_targets, supervised = torch.from_numpy(np.concatenate(dense)), torch.from_numpy(np.concatenate(known))
        patches, grids = pixels["pixel_values"], pixels["image_grid_thw"]
        return Batch(patches, grids, ids, mask, labels, weights, patch_targets, supervised, owners)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        height, width = smart_resize(size[1], size[0], 32, 64 * 64, architectures.MAX_PIXELS)
        return height // 16, width // 16

    def _text(
        self, around: tuple[list[int], list[int]], image_tokens: int, reasoning: str | None, answer: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return token ids, labels and loss weights of one training text."""
        prompt = [*around[0], *[self._image] * image_tokens, *around[1]]
        words = self._ids(reasoning + "\n") if reasoning is not None else []
        closing = self._closing if reasoning is not None else []
        ids = torch.tensor([*prompt, *words, *closing, *self._answers[answer]])
        labels = ids.clone()
        labels[: len(prompt)] = UNSUPERVISED
        weights = torch.zeros(len(ids))
        if words:
            weights[len(prompt) : -1] = 1.5 / (len(words) + len(closing))
        weights[-1] = 1.0
        return ids, labels, weights

    def loss(self, batch: Batch, progress: float) -> Tensor:
        """See `TrainingTask`."""
        if self._to_compile:  # only now: a compiled module must not be copied for the average
            for block in self.module.model.model.visual.blocks:
                block.compile(dynamic=False)
            self._to_compile = False
        with torch.autocast("cpu", torch.bfloat16):
            hidden, patches = run(self.module, batch, self._image)
            supervised_tokens = batch.weights[:, 1:] > 0
            logits = self.module.model.lm_head(hidden[:, :-1][supervised_tokens])
        losses = F.cross_entropy(logits.float(), batch.labels[:, 1:][supervised_tokens], reduction="none")
        words = (losses * batch.weights[:, 1:][supervised_tokens]).sum() / len(batch.grids)
        return words + 1.5 * dense_loss(patches.float(), batch.dense, batch.known)

    @torch.inference_mode()
    def check(self, module: Any) -> str:
        """See `TrainingTask`."""
        yes, no = self._answers[True][0], self._answers[False][0]
        images = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in self.checks.jpegs[:CHECKED]]
        images = [image.resize(served_size(image), Image.Resampling.BILINEAR) for image in images]
        order = sorted(range(len(images)), key=lambda i: images[i].size)
        found = np.zeros(len(images))
        while order:
            size = images[order[0]].size
            alike = [i for i in order[:BATCH] if images[i].size == size]
            order = order[len(alike) :]
            pixels = self.processor.image_processor([images[i] for i in alike], return_tensors="pt")
            count = int(pixels["image_grid_thw"][0].prod()) // 4
            ids = torch.tensor([[*self._fast[0], *[self._image] * count, *self._fast[1]]] * len(alike))
            patch_targets = (ids == self._image).long()
            with torch.autocast("cpu", torch.bfloat16):
                reasoning = module.model(
                    input_ids=ids, mm_token_type_ids=patch_targets, logits_to_keep=1, use_cache=False, **pixels
                )
            logits = reasoning.logits[:, -1].float()
            found[alike] = torch.sigmoid(logits[:, yes] - logits[:, no]).numpy()
        return by_needs(found, self.checks.truths[:CHECKED])

    def save(self, module: Any, out: Path) -> None:
        """See `TrainingTask`."""
        module.model.set_attn_implementation("sdpa")
        architectures.save_checkpoint(module.model, self.processor, out)

    def load_weights(self, folder: Path) -> None:
        """See `TrainingTask`."""
        self.module.model.load_state_dict(Qwen3VLForConditionalGeneration.from_pretrained(folder).float().state_dict())


def served_size(still: Image.Image) -> tuple[int, int]:
    """Return the size used in serving; photos drawn small to save time are enlarged to it."""
    return LONG_SIDE, round(still.height * LONG_SIDE / still.width)


def same_length_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **how: Any
) -> tuple[Tensor, None]:
    """Compute attention within pictures of one size: [1, heads, patches, width] -> [1, patches, heads, width].

    Uses plain operations, which train faster on a CPU than fused ones, and which can be compiled.
    """
    q, k, v = (part[0].unflatten(1, (-1, how["max_length_q"])) for part in (query, key, value))
    weights = (q @ k.transpose(2, 3) * how["scaling"]).softmax(-1)
    return (weights.to(v.dtype) @ v).permute(1, 2, 0, 3).flatten(0, 1)[None], None


def run(module: Any, batch: Batch, image_token: int) -> tuple[Tensor, Tensor]:
    """Return hidden states [texts, tokens, width] and patch logits [patches, kinds]. The tower runs once an image."""
    core = module.model.model
    seen = core.get_image_features(batch.pixels, batch.grids, return_dict=True)
    patches = module.patches(seen.last_hidden_state)
    seen.pooler_output = [seen.pooler_output[i] for i in batch.owners]
    seen.deepstack_features = [[layer[i] for i in batch.owners] for layer in seen.deepstack_features]
    out = core(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        mm_token_type_ids=(batch.ids == image_token).long(),
        image_grid_thw=batch.grids[list(batch.owners)],
        mm_encoder_outputs={"image": seen},
        use_cache=False,
    )
    return out.last_hidden_state, patches


def dense_loss(logits: Tensor, dense: Tensor, known: Tensor) -> Tensor:
    """Return the patch loss. Things are rare, so patches that show one count four times."""
    each = F.binary_cross_entropy_with_logits(logits, dense, 1 + 3 * dense, reduction="none").sum(-1)
    return (each * known).sum() / known.sum().clamp(min=1)


def merge_order(patch_targets: np.ndarray) -> np.ndarray:
    """Reorder [rows, columns, kinds] to [rows * columns, kinds] in 2 x 2 blocks, as the image processor does."""
    rows, columns, kinds = patch_targets.shape
    return patch_targets.reshape(rows // 2, 2, columns // 2, 2, kinds).transpose(0, 2, 1, 3, 4).reshape(-1, kinds)


def color_jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Vary brightness and tint slightly."""
    table = np.arange(256)[None] * rng.uniform(0.82, 1.2) * rng.uniform(0.95, 1.05, (3, 1)) + rng.uniform(-14, 14)
    return image.point(np.clip(table, 0, 255).astype(np.uint8).flatten().tolist())
