"""Molmo 2 under vLLM, with image features added to the patch token's embedding as its authors do.

vLLM 0.32 replaces the embedding by the features (`model_executor/models/molmo2.py`), and so do 0.33 and the class that
it was written after. The authors' code and transformers add them (allenai/molmo2#17). vLLM imports this module in the
process with the model, through the entry point `vllm.general_plugins` of this package.
"""

# vLLM is not in every environment:
# pyright: reportMissingImports=false

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.molmo2 import Molmo2ForConditionalGeneration


class Molmo2WithAddedFeatures(Molmo2ForConditionalGeneration):
    """Molmo 2 whose visual positions hold the patch token's embedding plus the image features."""

    def _process_image_input(self, image_input: Any) -> tuple[Tensor, ...]:
        features = super()._process_image_input(image_input)
        return self._with_embedding(features, image_input["image_tokens"], image_input["num_image_tokens"])

    def _process_video_input(self, video_input: Any) -> tuple[Tensor, ...]:
        features = super()._process_video_input(video_input)
        return self._with_embedding(features, video_input["video_tokens"], video_input["num_video_tokens"])

    def _with_embedding(self, features: tuple[Tensor, ...], tokens: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
        """Add the patch token's embedding where the tokens of an image or clip are patches."""
        patch = torch.tensor([self.img_patch_id], device=tokens.device)
        row = self.get_language_model().embed_input_ids(patch)
        parts = tokens.split(counts.tolist(), dim=0)
        return tuple(
            each + row * (part == self.img_patch_id)[:, None] for each, part in zip(features, parts, strict=True)
        )
