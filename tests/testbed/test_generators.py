from pathlib import Path

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed.scenes.deck import stage_still
from roadwork_serve.testbed.synthesis.generators import ScenePainter, open_painter
from roadwork_serve.testbed.synthesis.prompts import briefs


def test_scenes_are_to_the_brief() -> None:
    painter = ScenePainter()
    for brief in briefs(5, 20):
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
    (brief,) = briefs(1, 1)
    assert ScenePainter().paint(brief) == ScenePainter().paint(brief)


def test_what_a_painter_has_no_use_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="drawn without a model"):
        open_painter("scenes", model="x")
    with pytest.raises(ConfigError, match="cosmos starts from no photos"):
        open_painter("cosmos", images=Path("."))
    with pytest.raises(ConfigError, match="there is no painter 'crayon'"):
        open_painter("crayon")
