from pathlib import Path

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed.scenes.deck import stage_still
from roadwork_serve.testbed.synthesis.generators import SceneGenerator, open_generator
from roadwork_serve.testbed.synthesis.prompts import image_prompts


def test_scenes_are_to_the_brief() -> None:
    painter = SceneGenerator()
    for brief in image_prompts(5, 20):
        made = painter.paint(brief)
        truth = stage_still(made.seed).truth
        kinds = [thing.kind for thing in truth.things]
        assert truth.label == brief.label
        if brief.element:
            assert truth.activity == "single_object"
            assert [kind for kind in kinds if kind in ("cone", "barrier", "worker", "machine")] == [brief.element]
        assert made.jpeg.startswith(b"\xff\xd8\xff")
        assert made.prompt == ""


def test_the_same_brief_gives_the_same_picture() -> None:
    (brief,) = image_prompts(1, 1)
    assert SceneGenerator().paint(brief) == SceneGenerator().paint(brief)


def test_what_a_painter_has_no_use_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="drawn without a model"):
        open_generator("scenes", model="x")
    with pytest.raises(ConfigError, match="cosmos starts from no photos"):
        open_generator("cosmos", images=Path("."))
    with pytest.raises(ConfigError, match="there is no painter 'crayon'"):
        open_generator("crayon")
