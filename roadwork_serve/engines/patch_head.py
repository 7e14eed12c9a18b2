"""A linear head on the patches of a backbone: evidence of road work by class and place."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from roadwork_serve.engines.head_settings import PATCH_FILE, PatchHeadSettings
from roadwork_serve.errors import ModelError


class PatchHead(nn.Linear):
    """Patch tokens [n, patches, width] -> logits of evidence [n, patches, classes], without a sigmoid."""

    def __init__(self, settings: PatchHeadSettings) -> None:
        super().__init__(settings.width, len(settings.classes))
        self.settings = settings

    def save(self, folder: Path) -> None:
        """Write patch_head.json and patch_head.safetensors (fp16)."""
        (folder / f"{PATCH_FILE}.json").write_text(json.dumps(asdict(self.settings), indent=2) + "\n", encoding="utf-8")
        weights = {name: w.detach().half().contiguous() for name, w in self.state_dict().items()}
        save_file(weights, folder / f"{PATCH_FILE}.safetensors")
        (folder / f"{PATCH_FILE}.safetensors").chmod(0o644)  # safetensors makes the file readable only by its owner

    @classmethod
    def load(cls, folder: Path) -> "PatchHead":
        """Load a patch head that `save` wrote.

        Raises:
            ModelError: A file is missing, damaged, or does not match the other.
        """
        try:
            head = cls(PatchHeadSettings.read(folder))
            weights = load_file(folder / f"{PATCH_FILE}.safetensors")
            head.load_state_dict({name: w.float() for name, w in weights.items()})
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ModelError(f"The patch head in {folder} cannot be read: {error}. Train it again.") from error
        return head.eval().requires_grad_(False)
