from dataclasses import replace

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import StageSpec
from roadwork_serve.stages.vlm import Vlm
from tests import untrained
from tests.stages.items import clip, photo


def spec(**options: object) -> StageSpec:
    return StageSpec(engine="transformers", model=str(untrained.vlm()), miniature=True, options=options)


@pytest.fixture(scope="module")
def fast() -> Vlm:
    return Vlm(spec())


def test_answers_with_the_mass_left_over(fast: Vlm) -> None:
    (opinion,) = fast.judge([photo(1)])
    assert fast.name == "vlm"
    assert opinion.logit is not None
    assert opinion.saw.left_over is not None and 0 <= opinion.saw.left_over <= 1
    assert opinion.saw.thought is None
    assert opinion.tokens == 1
    assert opinion.batch_ms > 0 and opinion.compute_ms > 0


def test_abstains_on_what_cannot_be_decoded_and_judges_the_rest(fast: Vlm) -> None:
    good = photo(1)
    broken = replace(good, images=(good.images[0][:200],))
    opinions = fast.judge([broken, good, good.slim("thumbs")])
    assert [o.logit is None for o in opinions] == [True, False, True]
    assert opinions[1].logit == pytest.approx(fast.judge([good])[0].logit, abs=1e-4)


def test_looks_at_the_middle_frame_of_a_clip(fast: Vlm) -> None:
    item = clip(1)
    middle = replace(item, images=(item.images[4],), timestamps_s=(0.0,))
    assert fast.judge([item])[0].logit == fast.judge([middle])[0].logit


def test_thinks_first_when_told_to() -> None:
    stage = Vlm(spec(thinking=True, thought_tokens=6))
    (opinion,) = stage.judge([photo(1)])
    assert stage.name == "reasoner"
    assert opinion.saw.thought is not None
    assert 1 < opinion.tokens <= 6 + 3
    assert opinion.logit is not None


@pytest.mark.parametrize("options", [{"thoughts": 3}, {"thinking": "yes"}, {"max_side": 0}, {"thought_tokens": True}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Vlm(spec(**options))
