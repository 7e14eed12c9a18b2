"""Generators over a fake of the diffusers API, version 0.42; not yet run on hardware."""

import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.testbed.synthesis.diffusion import COSMOS, SDXL, Cosmos, StableDiffusion
from roadwork_serve.testbed.synthesis.prompts import image_prompts
from tests.evaluation.fakes import RED, write_jpeg

PROMPT = image_prompts(1, 1)[0]


class Pipeline:
    """Accepts the arguments of real pipelines, and returns noise of the given generator."""

    opened: ClassVar[list[tuple[str, str, dict[str, Any]]]] = []
    calls: ClassVar[list[dict[str, Any]]] = []
    takes: ClassVar[frozenset[str]] = frozenset({"width", "height"})
    on = "cpu"

    @classmethod
    def from_pretrained(
        cls, model: str, *, dtype: torch.dtype, use_safetensors: bool, trust_remote_code: bool
    ) -> "Pipeline":
        if model == "gated":
            raise OSError("401 Client Error: gated repo")
        if model == "unguarded":
            raise ImportError("`cosmos_guardrail` is not installed.")
        Pipeline.opened.append(
            (cls.__name__, model, {"dtype": dtype, "safe": use_safetensors, "code": trust_remote_code})
        )
        return cls()

    def set_progress_bar_config(self, disable: bool) -> None:
        self.quiet = disable

    def to(self, device: str) -> "Pipeline":
        self.on = device
        return self

    def __call__(
        self, *, prompt: str, negative_prompt: str, generator: torch.Generator, num_inference_steps: int,
        guidance_scale: float, **more: Any,
    ) -> SimpleNamespace:  # fmt: skip
        assert self.on == "cuda" and self.quiet
        assert set(more) == self.takes
        if "unsafe" in prompt:
            raise ValueError("Cosmos Guardrail detected unsafe text")
        Pipeline.calls.append(
            {"prompt": prompt, "negative_prompt": negative_prompt, "steps": num_inference_steps} | more
        )
        size = more["image"].size if "image" in more else (more["width"], more["height"])
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
        return SimpleNamespace(images=[Image.fromarray(noise.numpy())])


@pytest.fixture(autouse=True)
def diffusers(monkeypatch) -> ModuleType:
    module = ModuleType("diffusers")
    for name in ("StableDiffusionXLPipeline", "Cosmos2TextToImagePipeline"):
        setattr(module, name, type(name, (Pipeline,), {}))
    image_to_image = type("StableDiffusionXLImg2ImgPipeline", (Pipeline,), {"takes": frozenset({"image", "strength"})})
    module.StableDiffusionXLImg2ImgPipeline = image_to_image  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffusers", module)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(Pipeline, "opened", [])
    monkeypatch.setattr(Pipeline, "calls", [])
    return module


def _size(jpeg: bytes) -> tuple[int, int]:
    return Image.open(BytesIO(jpeg)).size


def test_text_to_image() -> None:
    made = StableDiffusion().generate(PROMPT)
    assert Pipeline.opened == [
        ("StableDiffusionXLPipeline", SDXL, {"dtype": torch.float16, "safe": True, "code": False})
    ]
    assert Pipeline.calls[0]["prompt"] == PROMPT.prompt == made.prompt
    assert Pipeline.calls[0]["negative_prompt"] == PROMPT.negative_prompt == made.negative_prompt
    assert _size(made.jpeg) == (1216, 832)
    assert (made.seed, made.group, made.start) == (PROMPT.seed, "", "")


def test_a_seed_gives_the_same_image() -> None:
    generator = StableDiffusion()
    one, two, other = (generator.generate(each).jpeg for each in (PROMPT, PROMPT, image_prompts(1, 2)[1]))
    assert one == two != other


def test_photo_to_image_keeps_pairs_together(tmp_path: Path) -> None:
    for name, size in (("a.jpg", (1500, 1001)), ("b.jpg", (333, 222))):
        write_jpeg(tmp_path / name, RED)
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(tmp_path / name)
    generator = StableDiffusion("folder", tmp_path, strength=0.4)
    made = [generator.generate(each) for each in image_prompts(1, 4)]
    assert [each.start for each in made] == ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    assert made[0].group == made[1].group != made[2].group
    assert [_size(each.jpeg) for each in made[1:3]] == [(1024, 680), (328, 216)]
    assert Pipeline.calls[0]["strength"] == 0.4
    assert Pipeline.opened[0][:2] == ("StableDiffusionXLImg2ImgPipeline", "folder")
    with pytest.raises(ConfigError, match="cannot be listed: No such file"):
        StableDiffusion(images=tmp_path / "nowhere")


def test_photos_to_start_from_are_listed_as_in_all_folders(tmp_path: Path) -> None:
    (tmp_path / "roads").mkdir()
    with pytest.raises(ConfigError, match="holds no photos"):
        StableDiffusion(images=tmp_path / "roads")
    write_jpeg(tmp_path / "elsewhere/a.JPG", RED)
    write_jpeg(tmp_path / "roads/._a.jpg", RED)
    (tmp_path / "roads/linked").symlink_to(tmp_path / "elsewhere")
    assert [each.name for each in StableDiffusion(images=tmp_path / "roads").starts] == ["a.JPG"]
    (tmp_path / "roads/gone.jpg").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"gone\.jpg: it is a link to .*gone: No such file"):
        StableDiffusion(images=tmp_path / "roads")


def test_cosmos_has_the_same_interface() -> None:
    made = Cosmos().generate(PROMPT)
    assert Pipeline.opened[0][:2] == ("Cosmos2TextToImagePipeline", COSMOS)
    assert _size(made.jpeg) == (1360, 768)
    assert "NVIDIA Open Model License" in Cosmos().licence


def test_missing_requirements_are_errors(diffusers: ModuleType, monkeypatch) -> None:
    with pytest.raises(ModelError, match=r"gated cannot be loaded.*401.*licence you have accepted"):
        StableDiffusion("gated")
    with pytest.raises(ModelError, match=r"unguarded needs a package.*cosmos_guardrail"):
        Cosmos("unguarded")
    del diffusers.Cosmos2TextToImagePipeline
    with pytest.raises(ModelError, match=r"pip install 'roadwork-serve\[synth\]'"):
        Cosmos()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModelError, match="is not installed"):
        StableDiffusion()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="PyTorch finds none"):
        StableDiffusion()


def test_a_prompt_that_the_guardrail_rejects_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"refuses the prompt 'unsafe'.*Guardrail"):
        Cosmos().generate(replace(PROMPT, prompt="unsafe"))
