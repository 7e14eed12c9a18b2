"""A frozen DINOv3 backbone and the small head that is trained on its features."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from roadwork_serve.engines.transformers import load_pretrained
from roadwork_serve.errors import ModelError

Recipe = Literal["cls", "cls+mean", "cls+mean+max"]
# Of the DINOv3 image processor: what the released checkpoints were trained with (the ImageNet statistics).
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
_TRAIN = (
    "For a miniature run `roadwork minis train backbone`; for any other backbone name a folder with head.json and "
    "head.safetensors in engines.NAME.features.head of the profile"
)


@dataclass(frozen=True)
class HeadSettings:
    """recipe: which features of the backbone. outputs: what the logits are of, in order."""

    width: int
    recipe: Recipe = "cls"
    hidden: int = 256
    dropout: float = 0.1
    outputs: tuple[str, ...] = field(default=("roadwork", "words"))


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


def features(tokens: Tensor, registers: int, recipe: Recipe) -> Tensor:
    """Last hidden state [n, 1 + registers + patches, width] -> [n, width * parts], after the model's final norm."""
    patches = tokens[:, 1 + registers :]
    parts = {"cls": lambda: tokens[:, 0], "mean": lambda: patches.mean(1), "max": lambda: patches.amax(1)}
    return torch.cat([parts[part]() for part in recipe.split("+")], dim=1)


class FeatureEngine:
    """DINOv3 from a folder or hub id. A head lies beside the weights, or in head_folder, or is not there yet."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int = 1,
        head_folder: Path | None = None,
    ) -> None:
        if device == "cpu":
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.model = load_pretrained(DINOv3ViTModel, model, dtype=dtype, device=device)
        folder = head_folder or Path(model)
        self.head = Head.load(folder).to(self.device).eval() if (folder / "head.json").exists() else None
        if self.head and self.head.settings.width != self.model.config.hidden_size:
            raise ModelError(
                f"The head in {folder} was trained on features {self.head.settings.width} wide, the backbone {model} "
                f"gives {self.model.config.hidden_size}: train a head for this backbone."
            )
        self.mean = torch.tensor(PIXEL_MEAN, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(PIXEL_STD, device=self.device).view(1, 3, 1, 1)

    @property
    def has_head(self) -> bool:
        """Whether it can answer."""
        return self.head is not None

    def warm(self) -> None:
        """Run it once, at the smallest size the released checkpoints were trained on."""
        thumbs = np.zeros((1, 14 * self.patch, 14 * self.patch, 3), np.uint8)
        self.features(thumbs) if self.head is None else self.logits(thumbs)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels; image sides must be multiples of it."""
        return int(self.model.config.patch_size)

    @torch.inference_mode()
    def features(self, thumbs: NDArray[np.uint8], recipe: Recipe = "cls") -> Tensor:
        """uint8 RGB [n, side, side, 3] -> float32 [n, width * parts of the recipe]."""
        pixels = torch.from_numpy(thumbs).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        pixels = (pixels - self.mean) / self.std
        tokens = self.model(pixels.to(self.model.dtype)).last_hidden_state
        return features(tokens.float(), self.model.config.num_register_tokens, recipe)

    @torch.inference_mode()
    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """One array [n] for each output of the head, by name. Call only when there is a head."""
        if self.head is None:
            raise ModelError(f"This backbone has no head yet. {_TRAIN}.")
        out = self.head(self.features(thumbs, self.head.settings.recipe)).cpu().numpy()
        return {name: out[:, i] for i, name in enumerate(self.head.settings.outputs)}
