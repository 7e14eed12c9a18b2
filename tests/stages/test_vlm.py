from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from roadwork_serve.cascade.prediction import Stage
from roadwork_serve.engines.chat import ANSWER
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vlm import Prompt, VlmAnswer
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import EngineSpec, StageName, StageSpec
from roadwork_serve.stages import language
from roadwork_serve.stages.vlm import Vlm
from roadwork_serve.testbed.scenes.effects import to_jpeg
from tests import untrained
from tests.recording_lock import Held
from tests.stages.items import clip, opened, photo


@pytest.fixture(scope="module")
def fast() -> Stage:
    return opened("vlm", untrained.vlm())


async def test_answers_with_the_mass_left_over(fast: Stage) -> None:
    (opinion,) = await fast.predict([photo(1)])
    assert fast.name == "vlm"
    assert opinion.logit is not None
    assert opinion.evidence.other_token_mass is not None and 0 <= opinion.evidence.other_token_mass <= 1
    assert opinion.evidence.reasoning is None
    assert opinion.tokens == 1
    assert opinion.preprocess_ms > 0 and opinion.compute_ms > 0


async def test_abstains_on_what_cannot_be_decoded_and_judges_the_rest(fast: Stage) -> None:
    good = photo(1)
    broken = replace(good, images=(good.images[0][:200],))
    opinions = await fast.predict([broken, good, good.slim("thumbs")])
    assert [o.logit is None for o in opinions] == [True, False, True]
    assert opinions[1].logit == pytest.approx((await fast.predict([good]))[0].logit, abs=1e-4)


async def test_looks_at_the_middle_frame_of_a_clip(fast: Stage) -> None:
    item = clip(1)
    middle = replace(item, images=(item.images[4],), timestamps_s=(0.0,))
    assert (await fast.predict([item]))[0].logit == (await fast.predict([middle]))[0].logit


async def test_thinks_first_when_told_to() -> None:
    stage = opened("reasoner", untrained.vlm(), thinking=True, reasoning_tokens=6)
    (opinion,) = await stage.predict([photo(1)])
    assert stage.name == "reasoner"
    assert opinion.evidence.reasoning is not None
    assert 1 < opinion.tokens <= 6 + 3
    assert opinion.logit is not None


@pytest.mark.parametrize("options", [{"thoughts": 3}, {"thinking": "yes"}, {"max_side": 0}, {"reasoning_tokens": True}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        opened("vlm", untrained.vlm(), **options)


async def test_a_model_that_was_not_made_to_think_thinks_aloud_and_is_led_to_its_answer(fast: Stage) -> None:
    """Qwen3-VL-Instruct serves the reasoner too where memory is short; its template opens no thought."""
    assert isinstance(fast, Vlm) and isinstance(fast.engine, VisionLanguageEngine)
    engine = fast.engine
    plain = engine.encode([Prompt("Why?", (Image.new("RGB", (64, 64)),))])
    (answer,) = engine.think(plain, 4)
    assert answer.tokens <= 4 + len(engine.tokenizer.encode(ANSWER, add_special_tokens=False)) + 1
    assert answer.logit != engine.answer(plain)[0].logit


async def test_says_when_a_server_told_only_its_choice() -> None:
    class Chooser:
        async def ask(self, prompts: Sequence[Prompt], reasoning_tokens: int = 0) -> list[VlmAnswer]:
            return [VlmAnswer(2.0, 0.0, from_choice=True) for _ in prompts]

    spec, engine = StageSpec(engine="e"), EngineSpec(backend="transformers", model="m")
    stage = Vlm("vlm", spec, engine, Chooser())  # type: ignore[arg-type]
    (opinion,) = await stage.predict([photo(1)])
    assert opinion.evidence.from_choice


@pytest.mark.parametrize("name", ["vlm", "video"])
async def test_pictures_that_nobody_waits_for_are_not_decoded(name: StageName, monkeypatch: pytest.MonkeyPatch) -> None:
    held, decode = Held(at=2), language.open_rgb
    monkeypatch.setattr(language, "open_rgb", lambda *a: held() or decode(*a))
    stage = opened(name, untrained.vlm())
    await held.cancelled_there(stage.predict([photo(1)] * 5))
    assert held.steps == 2
    await stage.aclose()


async def test_an_engine_that_slept_answers_as_before(fast: Stage) -> None:
    assert isinstance(fast, Vlm)
    before = (await fast.predict([photo(1)]))[0].logit
    await fast.sleep()
    await fast.wake()
    assert (await fast.predict([photo(1)]))[0].logit == before


async def test_a_picture_as_long_and_thin_as_no_model_takes_is_left_out_of_the_batch(fast: Stage) -> None:
    good = photo(1)
    thin = replace(good, images=(to_jpeg(Image.new("RGB", (1600, 4)), 90),))
    assert [o.logit is None for o in await fast.predict([thin, good])] == [True, False]
