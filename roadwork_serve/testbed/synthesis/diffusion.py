"""Stable Diffusion XL and NVIDIA Cosmos through diffusers, on a GPU. Experimental, not yet run on hardware.

Cosmos is used for pictures only (Cosmos2TextToImagePipeline): in a clip the label would have to hold for every frame.
Its licence requires the guardrail (package cosmos_guardrail), so that stays on.
"""

import importlib
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from roadwork_serve import media
from roadwork_serve.errors import BrokenMedia, ConfigError, MediaError, ModelError
from roadwork_serve.local_files import list_folder
from roadwork_serve.testbed.synthesis.generated_image import GeneratedImage
from roadwork_serve.testbed.synthesis.prompts import ImagePrompt

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
COSMOS = "nvidia/Cosmos-Predict2-2B-Text2Image"
_JPEG_QUALITY = 90
_LONGEST = 1024  # longer side of a photo to start from, about the size that SDXL was trained on
_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")


class StableDiffusion:
    """Text to image, or image to image when a folder of photos is given. Experimental, not yet run on hardware.

    strength: from 0 (the photo is left as it is) to 1 (the photo is ignored).
    """

    name = "sdxl"
    steps, guidance = 30, 6.0
    size = 1216, 832  # width and height, one of those that SDXL was trained on

    def __init__(self, model: str | None = None, images: Path | None = None, strength: float = 0.6) -> None:
        self.model = model or SDXL
        self.licence = f"made with {self.model}, whose licence applies (SDXL: CreativeML Open RAIL++-M)"
        self.starts = [] if images is None else _photos(images)
        self.strength = strength
        kind = "StableDiffusionXLImg2ImgPipeline" if self.starts else "StableDiffusionXLPipeline"
        self.pipeline = _pipeline(kind, self.model, torch.float16)

    def generate(self, prompt: ImagePrompt) -> GeneratedImage:
        """See `ImageGenerator`."""
        options: dict[str, Any] = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        start = self.starts[prompt.index // 2 % len(self.starts)] if self.starts else None
        if start is None:
            options["width"], options["height"] = self.size
        else:
            options |= {"image": _opened(start), "strength": self.strength}
        image = _run(self.pipeline, prompt, options, self.model)
        name = start.name if start else ""
        group = f"start {name}" if name else ""
        return GeneratedImage(
            _jpeg(image), prompt.seed, prompt.tags, prompt.prompt, prompt.negative_prompt, group, name
        )


class Cosmos:
    """Text to image with Cosmos Predict2. Experimental, not yet run on hardware."""

    name = "cosmos"
    steps, guidance = 35, 7.0
    size = 1360, 768  # width and height, diffusers' default

    def __init__(self, model: str | None = None) -> None:
        self.model = model or COSMOS
        self.licence = f"made with {self.model}, whose licence applies (NVIDIA Open Model License)"
        self.pipeline = _pipeline("Cosmos2TextToImagePipeline", self.model, torch.bfloat16)

    def generate(self, prompt: ImagePrompt) -> GeneratedImage:
        """See `ImageGenerator`."""
        options: dict[str, Any] = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        options["width"], options["height"] = self.size
        image = _run(self.pipeline, prompt, options, self.model)
        return GeneratedImage(_jpeg(image), prompt.seed, prompt.tags, prompt.prompt, prompt.negative_prompt)


def _pipeline(kind: str, model: str, dtype: torch.dtype) -> Any:
    """Load a pipeline onto the GPU, from safetensors only and without remote code. Raises ModelError."""
    if not torch.cuda.is_available():
        raise ModelError(
            f"{model} needs a CUDA GPU, and PyTorch finds none: run this on a machine with one, or use "
            "--generator scenes"
        )
    try:
        loader = getattr(importlib.import_module("diffusers"), kind)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"diffusers with {kind} is not installed ({error}): pip install 'roadwork-serve[synth]'"
        ) from None
    try:
        pipeline = loader.from_pretrained(model, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except ImportError as error:
        raise ModelError(f"{model} needs a package that is not installed: {_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{model} cannot be loaded: {_line(error)}. Give --model a folder, or a hub id that this machine can reach "
            "and whose licence you have accepted (`hf auth login`)"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda")


def _run(pipeline: Any, prompt: ImagePrompt, options: dict[str, Any], model: str) -> Image.Image:
    """Run the pipeline. The noise is drawn on the CPU, so that a seed gives the same picture on every GPU."""
    generator = torch.Generator("cpu").manual_seed(prompt.seed)
    try:
        result = pipeline(prompt=prompt.prompt, negative_prompt=prompt.negative_prompt, generator=generator, **options)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{model} does not fit into the GPU memory; use a larger GPU. {_line(error)}") from error
    except ValueError as error:
        raise ModelError(f"{model} refuses the prompt {prompt.prompt!r}: {_line(error)}") from error
    return result.images[0]


def _photos(folder: Path) -> list[Path]:
    listed = [each for each in list_folder(folder) if each.name.lower().endswith(_PHOTOS)]
    if unread := next((each for each in listed if each.problem), None):
        raise ConfigError(f"{unread.name}: {unread.problem}")
    found = [Path(each.path) for each in listed]
    if not found:
        raise ConfigError(f"{folder} holds no photos; --images takes a folder of ordinary roads to start from")
    return found


def _opened(path: Path) -> Image.Image:
    """Open a photo at a size that the model accepts: sides are multiples of 8."""
    try:
        image = media.open_rgb(path.read_bytes(), _LONGEST)
    except MediaError as error:
        raise BrokenMedia(f"{path}: {error}") from None
    width, height = (max(8, side // 8 * 8) for side in image.size)
    return image.resize((width, height))


def _jpeg(image: Image.Image) -> bytes:
    out = BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
