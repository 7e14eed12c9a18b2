from pathlib import Path

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed.scenes.scenarios import photo_scene
from roadwork_serve.testbed.synthesis.generate import open_generator
from roadwork_serve.testbed.synthesis.prompts import image_prompts
from roadwork_serve.testbed.synthesis.scene_generator import SceneGenerator


def test_scenes_fit_the_prompt() -> None:
    generator = SceneGenerator()
    for prompt in image_prompts(5, 20):
        made = generator.generate(prompt)
        truth = photo_scene(made.seed).truth
        kinds = [thing.kind for thing in truth.things]
        assert truth.label == prompt.label
        if prompt.element:
            assert truth.activity == "single_object"
            assert [kind for kind in kinds if kind in ("cone", "barrier", "worker", "machine")] == [prompt.element]
        assert made.jpeg.startswith(b"\xff\xd8\xff")
        assert made.prompt == ""


def test_the_same_prompt_gives_the_same_image() -> None:
    (prompt,) = image_prompts(1, 1)
    assert SceneGenerator().generate(prompt) == SceneGenerator().generate(prompt)


def test_inapplicable_options_of_a_generator_are_rejected() -> None:
    with pytest.raises(ConfigError, match="drawn without a model"):
        open_generator("scenes", model="x")
    with pytest.raises(ConfigError, match="cosmos cannot start from photos"):
        open_generator("cosmos", images=Path("."))
    with pytest.raises(ConfigError, match="there is no generator 'crayon'"):
        open_generator("crayon")
