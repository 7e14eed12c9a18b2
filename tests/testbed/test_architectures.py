from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Molmo2ForConditionalGeneration, Qwen3VLForConditionalGeneration

from roadwork_serve.testbed.minis import architectures
from tests import untrained


@pytest.fixture
def picture() -> Image.Image:
    """Return 64 x 64 pixels of noise: 4 x 4 patches."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture
def embedded(picture: Image.Image) -> torch.Tensor:
    """Return the backbone's patch embeddings of the image, [16, width], row by row."""
    mean = torch.tensor(architectures.PIXEL_MEAN).view(3, 1, 1)
    std = torch.tensor(architectures.PIXEL_STD).view(3, 1, 1)
    pixels = (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std
    with torch.inference_mode():
        return teacher().embeddings.patch_embeddings(pixels[None]).flatten(2)[0].T


def teacher() -> torch.nn.Module:
    torch.manual_seed(1)
    return architectures.backbone().eval()


@pytest.mark.parametrize("write", [untrained.backbone, untrained.vlm, untrained.video])
def test_a_checkpoint_is_small(write: Callable[[], Path]) -> None:
    assert sum(file.stat().st_size for file in write().glob("*.safetensors")) < 13e6


def test_a_qwen_tower_initialized_from_the_backbone_embeds_patches_like_it(
    picture: Image.Image, embedded: torch.Tensor
) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(untrained.vlm(), dtype=torch.float32)
    architectures.start_qwen_tower(model.model.visual, teacher())
    patches = AutoProcessor.from_pretrained(untrained.vlm()).image_processor([picture], return_tensors="pt")
    with torch.inference_mode():
        seen = model.model.visual.patch_embed(patches["pixel_values"])
    blocks = embedded.view(2, 2, 2, 2, -1).transpose(1, 2).reshape(16, -1)
    assert torch.allclose(seen, blocks, atol=1e-4)


def test_a_molmo_tower_initialized_from_the_backbone_embeds_patches_like_it(
    picture: Image.Image, embedded: torch.Tensor
) -> None:
    model = Molmo2ForConditionalGeneration.from_pretrained(untrained.video(), dtype=torch.float32)
    architectures.start_molmo_tower(model.model.vision_tower, teacher())
    pixels = torch.from_numpy(np.array(picture)).float() / 127.5 - 1
    patches = pixels.view(4, 16, 4, 16, 3).transpose(1, 2).reshape(16, -1)
    with torch.inference_mode():
        seen = model.model.vision_tower.patch_embedding(patches)
    assert torch.allclose(seen, embedded, atol=1e-4)
