"""A frozen backbone and the small heads trained on its features."""

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from roadwork_serve.engines.backbones import Backbone, load_backbone
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.head_cache import HeadCache
from roadwork_serve.engines.head_files import HeadFiles, heads_folder
from roadwork_serve.engines.head_settings import (
    TRAIN,
    BackboneIdentity,
    HeadSettings,
    Recipe,
    check_head,
    check_patch_head,
    head_files,
)
from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.engines.patch_head import PatchHead
from roadwork_serve.engines.thumbnails import (
    ROADWORK,
    SECOND,
    PatchEvidence,
    batch_sizes,
    batches,
    reference_thumbs,
    to_device,
)
from roadwork_serve.errors import ModelError

_WHOLE: Recipe = "cls+mean+max"


class Head(nn.Sequential):
    """A small MLP or linear layer: features [n, width * parts of the recipe] -> logits [n, outputs], no sigmoid."""

    def __init__(self, settings: HeadSettings) -> None:
        features, outputs = settings.features, len(settings.outputs)
        if not settings.hidden:
            super().__init__(nn.Linear(features, outputs))
        else:
            super().__init__(
                nn.LayerNorm(features),
                nn.Dropout(settings.dropout),
                nn.Linear(features, settings.hidden),
                nn.GELU(),
                nn.Dropout(settings.dropout),
                nn.Linear(settings.hidden, outputs),
            )
        self.settings = settings

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write head.json and head.safetensors."""
        (folder / "head.json").write_text(json.dumps(asdict(self.settings), indent=2) + "\n")
        weights = {name: w.detach().to(dtype).contiguous() for name, w in self.state_dict().items()}
        save_file(weights, folder / "head.safetensors")
        (folder / "head.safetensors").chmod(0o644)  # safetensors makes the file readable only by its owner

    @classmethod
    def load(cls, folder: Path) -> "Head":
        """Load a head that `save` wrote.

        Raises:
            ModelError: A file is missing, damaged, or does not match the other.
        """
        return cls.parse(head_files(folder), str(folder))

    @classmethod
    def parse(cls, files: HeadFiles, name: str) -> "Head":
        """Make a head from the files that `save` wrote; the name is for errors.

        Raises:
            ModelError: A file is damaged, or does not match the other.
        """
        try:
            head = cls(HeadSettings.parse(files.settings))
            head.load_state_dict({name: w.float() for name, w in load(files.weights).items()})
        except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as e:
            raise ModelError(f"The head in {name} cannot be read: {e}. {TRAIN}.") from e
        return head


def pool_features(tokens: Tensor, recipe: Recipe) -> Tensor:
    """Pool the tokens of a backbone.

    Args:
        tokens: float [n, 1 + patches, width], the global token first.
        recipe: The features to pool.

    Returns:
        float [n, width * parts of the recipe].
    """
    patches = tokens[:, 1:]
    parts = {"cls": lambda: tokens[:, 0], "mean": lambda: patches.mean(1), "max": lambda: patches.amax(1)}
    return torch.cat([parts[part]() for part in recipe.split("+")], dim=1)


class BackboneWithHeads(nn.Module):
    """Stage 1 as one module: thumbs uint8 [n, side, side, 3] -> logits float32 [n, outputs of the heads in order]."""

    def __init__(self, backbone: Backbone, *heads: Head, patch_head: PatchHead | None = None) -> None:
        super().__init__()
        self.backbone, self.heads, self.patch_head = backbone, nn.ModuleList(heads), patch_head
        self.recipes: list[Recipe] = [head.settings.recipe for head in heads]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        self.to(backbone.device)

    def features(self, thumbs: Tensor, recipe: Recipe) -> Tensor:
        """Return the pooled features, float32 [n, width * parts of the recipe]."""
        return pool_features(self.tokens(thumbs), recipe)

    def forward(self, thumbs: Tensor) -> Tensor:
        """Return the logits of all heads side by side, float32 [n, outputs]."""
        tokens = self.tokens(thumbs)
        logits = [head(pool_features(tokens, recipe)) for head, recipe in zip(self.heads, self.recipes, strict=True)]
        return logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)

    def pooled(self, thumbs: Tensor) -> Tensor:
        """Return the features of the longest recipe, float32 [n, 3 * width]; every other recipe is a prefix of it.

        With a patch head its logits [n, patches * classes] follow.
        """
        tokens = self.tokens(thumbs)
        pooled = pool_features(tokens, _WHOLE)
        return pooled if self.patch_head is None else torch.cat([pooled, self.patch_head(tokens[:, 1:]).flatten(1)], 1)

    def tokens(self, thumbs: Tensor) -> Tensor:
        """Return the global token and those of the patches, float32 [n, 1 + patches, width]."""
        pixels = (thumbs.float().permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        return self.backbone(pixels.to(self.backbone.dtype)).float()


class FeatureEngine:
    """A backbone of the DINO family from a folder or hub id, with the heads that are loaded for it."""

    def __init__(
        self,
        model: str,
        options: LoadOptions = DEFAULTS,
        *,
        head_folder: Path | None = None,
        second_head_folder: Path | None = None,
        policy_heads: Path | None = None,
        side: int | None = None,
        max_thumbs: int = 16,
        compile: bool | None = None,
    ) -> None:
        """Load the backbone and its heads.

        Args:
            model: Folder or hub id.
            options: Settings for loading the checkpoint.
            head_folder: Folder of the head. By default the head is loaded from the folder of the weights, if it is
                there.
            second_head_folder: Folder of a candidate head, which sees the same features. Its logit is named SECOND.
            policy_heads: Folder of the heads that policies may name. By default `heads` in the state folder.
            side: Side of the thumbnails in pixels. By default that of the checkpoint's preprocessing or config.
            max_thumbs: Largest number of thumbnails in one forward pass.
            compile: Compile with torch.compile. By default only on a GPU.

        Raises:
            ModelError: The model cannot be loaded, or does not take thumbnails of this size.
        """
        self.name, self.device, self.max_thumbs = model, torch.device(options.device), max_thumbs
        self.backbone = load_backbone(model, options)
        self.side = side or self.backbone.image_size
        if self.side % self.patch:
            raise ModelError(
                f"{model} has patches of {self.patch} pixels, and the side of the thumbnails, {self.side}, is not a "
                "multiple of it: set media.thumb_side to one"
            )
        self.head = self._own_head(head_folder)
        self.second = self._own_head(second_head_folder) if second_head_folder else None
        self.patch_head = self._own_patch_head(head_folder or Path(model))
        heads = (head for head in (self.head, self.second) if head)
        self.module = BackboneWithHeads(self.backbone, *heads, patch_head=self.patch_head).eval()
        self.compiled = options.device == "cuda" if compile is None else compile
        self._run = torch.compile(self.module.pooled, dynamic=False) if self.compiled else self.module.pooled
        self._heads = HeadCache(policy_heads or heads_folder(None), Head.parse, self._fitted)

    def _own_head(self, folder: Path | None) -> Head | None:
        if folder is None:
            folder = Path(self.name)
            if not (folder / "head.json").exists():
                return None
        return self._load(folder)

    def _load(self, folder: Path) -> Head:
        return self._fitted(Head.load(folder), str(folder))

    def _fitted(self, head: Head, folder: str) -> Head:
        """Return the head on the engine's device. Raise ModelError if it is for another backbone."""
        head = head.to(self.device).eval().requires_grad_(False)
        check_head(head.settings, folder, BackboneIdentity(self.name, self.backbone.width))
        return head

    def _own_patch_head(self, folder: Path) -> PatchHead | None:
        if not (folder / "patch_head.json").exists():
            return None
        head = PatchHead.load(folder).to(self.device)
        check_patch_head(head.settings, folder, BackboneIdentity(self.name, self.backbone.width))
        return head

    @property
    def has_head(self) -> bool:
        """True if a head is loaded, be it only a second one."""
        return self.head is not None or self.second is not None

    @property
    def outputs(self) -> tuple[str | None, ...]:
        """Names of the logits in order; None for outputs of the second head that are not used."""
        first = self.head.settings.outputs if self.head else ()
        second = self.second.settings.outputs if self.second else ()
        return (*first, *(SECOND if name == ROADWORK else None for name in second))

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the backbone's weights, which heads are trained for."""
        return fingerprint(self.name)

    @property
    def patch(self) -> int:
        """Side of a patch or cell in pixels; image sides must be multiples of it."""
        return self.backbone.patch

    def warm(self) -> None:
        """Run every batch size the model is compiled for, or the smallest and the largest if it is not compiled.

        Raises:
            ModelError: The GPU has too little memory, or the dtype overflows.
        """
        counts = batch_sizes(self.max_thumbs) if self.compiled else (1, self.max_thumbs)
        try:
            with torch._dynamo.config.patch(recompile_limit=256):  # beyond the default of 8 PyTorch stops compiling
                for count in counts:
                    features = self.extract(reference_thumbs(self.side, count))
                    if not (self.head_logits(features) if self.has_head else features).isfinite().all():
                        raise ModelError(
                            f"{self.name} overflows in {self.backbone.dtype}: set dtype: bfloat16, or float32 on a CPU"
                        )
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"{self.name} is loaded, but the GPU has no memory left for {self.max_thumbs} thumbnails of "
                f"{self.side} px at once: lower features.max_thumbs, raise gpu_memory_gib, or give other engines less "
                "of the GPU"
            ) from error

    @torch.inference_mode()
    def features(self, thumbs: NDArray[np.uint8], recipe: Recipe = "cls") -> Tensor:
        """Return the pooled features of thumbnails of any side. Never compiled.

        Args:
            thumbs: uint8 RGB [n, side, side, 3].
            recipe: The features to pool.

        Returns:
            float32 [n, width * parts of the recipe].
        """
        parts = (to_device(thumbs[cut], len(thumbs[cut]), self.device) for cut in batches(len(thumbs), self.max_thumbs))
        return torch.cat([self.module.features(part, recipe) for part in parts])

    @torch.inference_mode()
    def patch_tokens(self, thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the tokens of the patches of thumbnails, float32 [n, patches, width]. Never compiled."""
        parts = (to_device(thumbs[cut], len(thumbs[cut]), self.device) for cut in batches(len(thumbs), self.max_thumbs))
        return torch.cat([self.module.tokens(part)[:, 1:] for part in parts]).cpu().numpy()

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the logits [n] of each output of the loaded heads by name.

        Raises:
            ModelError: No head is loaded.
        """
        if not self.has_head:
            raise ModelError(f"This backbone has no head yet. {TRAIN}.")
        return self.apply_heads(self.extract(thumbs))

    @torch.inference_mode()
    def extract(self, thumbs: NDArray[np.uint8]) -> Tensor:
        """Return the features all heads use, float32 [n, 3 * width], and with a patch head its logits after them.

        All forward passes are queued on the GPU before the first result is waited for.
        """
        if self.compiled and thumbs.shape[1:3] != (self.side, self.side):
            raise ModelError(
                f"{self.name} was compiled for thumbnails of {self.side} px, and these have {thumbs.shape[1]}"
            )
        queued = []
        for cut in batches(len(thumbs), self.max_thumbs):
            part = thumbs[cut]
            size = next(s for s in batch_sizes(self.max_thumbs) if s >= len(part)) if self.compiled else len(part)
            queued.append(self._run(to_device(part, size, self.device))[: len(part)])
        return torch.cat(queued)

    def apply_heads(self, features: Tensor, head: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Return the logits [n] by name: of the loaded heads, or of a head that a policy names.

        Raises:
            ModelError: There is no such head for this backbone.
        """
        logits = self.head_logits(features, head).cpu().numpy()
        names = self.outputs if head is None else self.load_head(head).settings.outputs
        return {name: logits[:, at] for at, name in enumerate(names) if name}

    def stored_features(self, features: Tensor) -> NDArray[np.float16]:
        """Return the part of the features that the journal stores: float16 [n, width], as the recipe `cls`."""
        return features[:, : self.backbone.width].half().cpu().numpy()

    def patch_evidence(self, features: Tensor) -> PatchEvidence | None:
        """Return the evidence by class and place; None without a patch head."""
        if self.patch_head is None:
            return None
        classes = self.patch_head.settings.classes
        logits = features[:, 3 * self.backbone.width :].reshape(len(features), -1, len(classes)).cpu().numpy()
        side = round(logits.shape[1] ** 0.5)
        return PatchEvidence(classes, logits.reshape(len(logits), side, side, len(classes)))

    def load_head(self, name: str) -> Head:
        """Return a head that a policy names; see `HeadCache`.

        Raises:
            ModelError: There is no such head for this backbone below the folder of heads, or reading it takes too long.
        """
        return self._heads.load(name)

    @torch.inference_mode()
    def head_logits(self, features: Tensor, head: str | None = None) -> Tensor:
        """Return the logits [n, outputs] of the loaded heads, or of a head that a policy names."""
        heads = [own for own in (self.head, self.second) if own] if head is None else [self.load_head(head)]
        return torch.cat([each(features[:, : each.settings.features]) for each in heads], dim=1)
