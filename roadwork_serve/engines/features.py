"""A frozen DINOv3 backbone and the small head that is trained on its features."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DINOv3ViTModel
from transformers.utils.import_utils import is_flash_attn_2_available

from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.loading import load_pretrained
from roadwork_serve.engines.thumbnails import ROADWORK, SECOND, batch_sizes, batches, reference_thumbs, to_device
from roadwork_serve.errors import ModelError

Recipe = Literal["cls", "cls+mean", "cls+mean+max"]  # each begins as the shorter ones do
_WHOLE: Recipe = "cls+mean+max"
_HELD = 8  # heads that policies name
# Of the DINOv3 image processor: what the released checkpoints were trained with (the ImageNet statistics).
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
_TRAIN = (
    "For a miniature run `roadwork minis train backbone`; for any other backbone name a folder with head.json and "
    "head.safetensors in engines.NAME.features.head of the profile"
)


@dataclass(frozen=True)
class HeadSettings:
    """recipe: which features of the backbone. outputs: what the logits are of, in order.

    backbone: fingerprint of the weights it was trained on, empty where that is not known.
    """

    width: int
    recipe: Recipe = "cls"
    hidden: int = 256
    dropout: float = 0.1
    outputs: tuple[str, ...] = field(default=(ROADWORK, "words"))
    backbone: str = ""


class Head(nn.Sequential):
    """Features [n, width * parts of the recipe] -> logits [n, outputs]; no sigmoid inside."""

    def __init__(self, settings: HeadSettings) -> None:
        features = settings.width * len(settings.recipe.split("+"))
        super().__init__(
            nn.LayerNorm(features),
            nn.Dropout(settings.dropout),
            nn.Linear(features, settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, len(settings.outputs)),
        )
        self.settings = settings

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write head.json and head.safetensors."""
        (folder / "head.json").write_text(json.dumps(asdict(self.settings), indent=2) + "\n")
        weights = {name: w.detach().to(dtype).contiguous() for name, w in self.state_dict().items()}
        save_file(weights, folder / "head.safetensors")
        (folder / "head.safetensors").chmod(0o644)  # safetensors lets its owner alone read it

    @classmethod
    def load(cls, folder: Path) -> "Head":
        """Read what `save` wrote. Raises ModelError when it does not fit together."""
        try:
            settings = json.loads((folder / "head.json").read_text())
            head = cls(HeadSettings(**{**settings, "outputs": tuple(settings["outputs"])}))
            weights = load_file(folder / "head.safetensors")
            head.load_state_dict({name: w.float() for name, w in weights.items()})
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as e:
            raise ModelError(f"The head in {folder} cannot be read: {e}. {_TRAIN}.") from e
        return head


def pool_features(tokens: Tensor, registers: int, recipe: Recipe) -> Tensor:
    """Last hidden state [n, 1 + registers + patches, width] -> [n, width * parts], after the model's final norm."""
    patches = tokens[:, 1 + registers :]
    parts = {"cls": lambda: tokens[:, 0], "mean": lambda: patches.mean(1), "max": lambda: patches.amax(1)}
    return torch.cat([parts[part]() for part in recipe.split("+")], dim=1)


class BackboneWithHeads(nn.Module):
    """Stage 1 as one module: thumbs uint8 [n, side, side, 3] -> logits float32 [n, outputs of the heads in order]."""

    def __init__(self, backbone: Any, *heads: Head) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleList(heads)
        self.recipes: list[Recipe] = [head.settings.recipe for head in heads]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)
        self.to(backbone.device)

    def features(self, thumbs: Tensor, recipe: Recipe) -> Tensor:
        """float32 [n, width * parts of the recipe]."""
        return self._of(self._tokens(thumbs), recipe)

    def forward(self, thumbs: Tensor) -> Tensor:
        """See the class."""
        tokens = self._tokens(thumbs)
        told = [head(self._of(tokens, recipe)) for head, recipe in zip(self.heads, self.recipes, strict=True)]
        return told[0] if len(told) == 1 else torch.cat(told, dim=1)

    def pooled(self, thumbs: Tensor) -> Tensor:
        """What every recipe is made of: float32 [n, 3 * width], as the recipe that has all parts."""
        return self._of(self._tokens(thumbs), _WHOLE)

    def _tokens(self, thumbs: Tensor) -> Tensor:
        pixels = (thumbs.float().permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        return self.backbone(pixels.to(self.backbone.dtype)).last_hidden_state.float()

    def _of(self, tokens: Tensor, recipe: Recipe) -> Tensor:
        return pool_features(tokens, self.backbone.config.num_register_tokens, recipe)


class FeatureEngine:
    """DINOv3 from a folder or hub id. A head lies in head_folder, or else beside the weights, or is not there yet.

    second_head_folder: of a head on trial, which sees what the first sees; its logit of road work is called SECOND.
    side: of the thumbs, pixels; the size in the checkpoint's config by default. max_thumbs: in one pass of the model.
    compile: run through torch.compile; by default on a GPU. Raises ModelError when the model cannot be loaded, or is
    none for such thumbs.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int = 1,
        head_folder: Path | None = None,
        second_head_folder: Path | None = None,
        side: int | None = None,
        max_thumbs: int = 16,
        compile: bool | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        gpu_memory_gib: float | None = None,
    ) -> None:
        self.name, self.device, self.max_thumbs = model, torch.device(device), max_thumbs
        self.model = load_pretrained(
            DINOv3ViTModel,
            model,
            dtype=dtype,
            device=device,
            threads=threads,
            revision=revision,
            trust_remote_code=trust_remote_code,
            gpu_memory_gib=gpu_memory_gib,
            attn_implementation=attention(dtype, device),
        )
        self.side = side or int(self.model.config.image_size)
        if self.side % self.patch:
            raise ModelError(
                f"{model} sees patches of {self.patch} pixels, and thumbs of {self.side} are no multiple: set "
                "media.thumb_side to one"
            )
        self.head = self._head(head_folder)
        self.second = self._head(second_head_folder) if second_head_folder else None
        self.glance = BackboneWithHeads(self.model, *(head for head in (self.head, self.second) if head)).eval()
        self.compiled = device == "cuda" if compile is None else compile
        self._run = torch.compile(self.glance.pooled, dynamic=False) if self.compiled else self.glance.pooled
        self._held: dict[str, Head] = {}

    def _head(self, folder: Path | None) -> Head | None:
        if folder is None:
            folder = Path(self.name)
            if not (folder / "head.json").exists():
                return None
        return self._load(folder)

    def _load(self, folder: Path) -> Head:
        head = Head.load(folder).to(self.device).eval().requires_grad_(False)
        if head.settings.width != self.model.config.hidden_size:
            raise ModelError(
                f"The head in {folder} was trained on features {head.settings.width} wide, the backbone {self.name} "
                f"gives {self.model.config.hidden_size}: train a head for this backbone."
            )
        if head.settings.backbone not in ("", self.fingerprint):
            raise ModelError(
                f"The head in {folder} was trained on another backbone than {self.name}, of the same width: train a "
                "head for this one."
            )
        if ROADWORK not in head.settings.outputs:
            raise ModelError(f"The head in {folder} says nothing of {ROADWORK}: name one that does, or train it anew.")
        return head

    @property
    def has_head(self) -> bool:
        """Whether it can answer, if only on trial."""
        return self.head is not None or self.second is not None

    @property
    def outputs(self) -> tuple[str | None, ...]:
        """What the logits are of; None for those of the second head that nobody asks for."""
        first = self.head.settings.outputs if self.head else ()
        second = self.second.settings.outputs if self.second else ()
        return (*first, *(SECOND if name == ROADWORK else None for name in second))

    @cached_property
    def fingerprint(self) -> str:
        """Of the backbone's weights, by which heads know theirs."""
        return fingerprint(self.name)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels; image sides must be multiples of it."""
        return int(self.model.config.patch_size)

    def warm(self) -> None:
        """Run it at every batch size that it compiles for, else at the smallest and the largest.

        Raises ModelError when the card is too small for it, or its precision for the model.
        """
        counts = batch_sizes(self.max_thumbs) if self.compiled else (1, self.max_thumbs)
        try:
            with torch._dynamo.config.patch(recompile_limit=256):  # of 8, past which PyTorch would go on uncompiled
                for count in counts:
                    thumbs = reference_thumbs(self.side, count)
                    looked = self.look(thumbs)
                    if not (self.told(looked) if self.has_head else looked).isfinite().all():
                        raise ModelError(
                            f"{self.name} overflows in {self.model.dtype}: set dtype: bfloat16, or float32 on a CPU"
                        )
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"{self.name} is loaded, but the card has no room for {self.max_thumbs} thumbs of {self.side} px at "
                "once: lower features.max_thumbs, raise gpu_memory_gib, or give other engines less of the card"
            ) from error

    @torch.inference_mode()
    def features(self, thumbs: NDArray[np.uint8], recipe: Recipe = "cls") -> Tensor:
        """uint8 RGB [n, side, side, 3] -> float32 [n, width * parts of the recipe]. Of any side; never compiled."""
        parts = (to_device(thumbs[cut], len(thumbs[cut]), self.device) for cut in batches(len(thumbs), self.max_thumbs))
        return torch.cat([self.glance.features(part, recipe) for part in parts])

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """One array [n] for each output of the head, by name, and SECOND. Call only when there is a head."""
        if not self.has_head:
            raise ModelError(f"This backbone has no head yet. {_TRAIN}.")
        return self.say(self.look(thumbs))

    @torch.inference_mode()
    def look(self, thumbs: NDArray[np.uint8]) -> Tensor:
        """What heads go by, float32 [n, 3 * width]. Every pass is sent off before the first is waited for."""
        if self.compiled and thumbs.shape[1:3] != (self.side, self.side):
            raise ModelError(f"{self.name} was compiled for thumbs of {self.side} px, these have {thumbs.shape[1]}")
        sent = []
        for cut in batches(len(thumbs), self.max_thumbs):
            part = thumbs[cut]
            size = next(s for s in batch_sizes(self.max_thumbs) if s >= len(part)) if self.compiled else len(part)
            sent.append(self._run(to_device(part, size, self.device))[: len(part)])
        return torch.cat(sent)

    def say(self, looked: Tensor, head: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Logits [n] by name, of the engine's own heads, or of the head in that folder.

        Raises ModelError where that holds no head for this backbone.
        """
        told = self.told(looked, head).cpu().numpy()
        names = self.outputs if head is None else self.hold(head).settings.outputs
        return {name: told[:, at] for at, name in enumerate(names) if name}

    def kept(self, looked: Tensor) -> NDArray[np.float16]:
        """What the journal keeps of it: float16 [n, width], what heads of the recipe `cls` go by."""
        return looked[:, : self.model.config.hidden_size].half().cpu().numpy()

    def hold(self, folder: str) -> Head:
        """The head in a folder; the last few that were asked for are kept. Raises ModelError."""
        head = self._held.pop(folder, None) or self._load(Path(folder))
        self._held[folder] = head
        for old in list(self._held)[:-_HELD]:
            del self._held[old]
        return head

    @torch.inference_mode()
    def told(self, looked: Tensor, head: str | None = None) -> Tensor:
        """Logits [n, outputs]; see `say`."""
        heads = [own for own in (self.head, self.second) if own] if head is None else [self.hold(head)]
        width = self.model.config.hidden_size
        return torch.cat([each(looked[:, : width * len(each.settings.recipe.split("+"))]) for each in heads], dim=1)


def attention(dtype: str, device: str) -> str:
    """What computes attention: FlashAttention 2 where it is installed and can, else PyTorch's own."""
    flash = device == "cuda" and dtype != "float32" and DINOv3ViTModel._supports_flash_attn
    return "flash_attention_2" if flash and is_flash_attn_2_available() else "sdpa"
