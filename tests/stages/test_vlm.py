from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.prediction import Stage
from roadwork_serve.cascade.stage_reports import report_of
from roadwork_serve.cascade.step import Step
from roadwork_serve.engines.chat import ANSWER
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vlm import Prompt, VlmAnswer
from roadwork_serve.errors import ConfigError
from roadwork_serve.media.photo import encode_jpeg
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages import language
from roadwork_serve.stages.vlm import Vlm
from roadwork_serve.testbed.scenes.effects import to_jpeg
from tests import untrained
from tests.recording_lock import PausePoint
from tests.stages.items import clip, opened, photo


@pytest.fixture(scope="module")
def fast() -> Stage:
    return opened("vlm", untrained.vlm())


async def test_a_prediction_has_the_mass_of_other_tokens(fast: Stage) -> None:
    (prediction,) = await fast.predict([photo(1)])
    assert fast.name == "vlm"
    assert prediction.logit is not None
    assert prediction.evidence.other_token_mass is not None and 0 <= prediction.evidence.other_token_mass <= 1
    assert prediction.evidence.reasoning is None
    assert prediction.tokens == 1
    assert prediction.preprocess_ms > 0 and prediction.compute_ms > 0


async def test_undecodable_items_abstain_and_the_rest_is_predicted(fast: Stage) -> None:
    good = photo(1)
    broken = replace(good, images=(good.images[0][:200],))
    predictions = await fast.predict([broken, good, good.slim("thumbs")])
    assert [o.logit is None for o in predictions] == [True, False, True]
    assert [str(o.abstention).split(":")[0] for o in predictions] == [
        "the image cannot be decoded",
        "None",
        "the item has no image",
    ]
    assert predictions[1].logit == pytest.approx((await fast.predict([good]))[0].logit, abs=1e-4)


@pytest.mark.parametrize("size", [(1, 150), (150, 1), (1020, 10)])
async def test_the_report_of_an_elongated_image_says_why_the_model_did_not_see_it(
    fast: Stage, size: tuple[int, int]
) -> None:
    strip = replace(photo(1), images=(encode_jpeg(Image.new("RGB", size), 90),))
    (prediction,) = await fast.predict([strip])
    report = report_of(Step(stage="vlm", exit=(0.1, 0.9)), StageAnswer(prediction, 0, 0, 1))
    assert report.outcome == "abstained"
    assert report.detail is not None and " pixels; " in report.detail
    assert "more than 100 times the shorter one" in report.detail


async def test_a_clip_is_represented_by_its_middle_frame(fast: Stage) -> None:
    item = clip(1)
    middle = replace(item, images=(item.images[4],), timestamps_s=(0.0,))
    assert (await fast.predict([item]))[0].logit == (await fast.predict([middle]))[0].logit


async def test_a_thinking_stage_reasons_before_it_answers() -> None:
    stage = opened("reasoner", untrained.vlm(), thinking=True, reasoning_tokens=6)
    (prediction,) = await stage.predict([photo(1)])
    assert stage.name == "reasoner"
    assert prediction.evidence.reasoning is not None
    assert 1 < prediction.tokens <= 6 + 3
    assert prediction.logit is not None


@pytest.mark.parametrize("options", [{"thoughts": 3}, {"thinking": "yes"}, {"max_side": 0}, {"reasoning_tokens": True}])
def test_invalid_options_are_rejected(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        opened("vlm", untrained.vlm(), **options)


async def test_an_instruct_model_reasons_before_it_answers(fast: Stage) -> None:
    """Qwen3-VL-Instruct serves the reasoner too where memory is short; its template opens no thought."""
    assert isinstance(fast, Vlm) and isinstance(fast.engine, VisionLanguageEngine)
    engine = fast.engine
    plain = engine.encode([Prompt("Why?", (Image.new("RGB", (64, 64)),))])
    (answer,) = engine.think(plain, 4)
    assert answer.tokens <= 4 + len(engine.tokenizer.encode(ANSWER, add_special_tokens=False)) + 1
    assert answer.logit != engine.answer(plain)[0].logit


async def test_evidence_marks_answers_from_a_choice() -> None:
    class Chooser:
        async def ask(self, prompts: Sequence[Prompt], reasoning_tokens: int = 0) -> list[VlmAnswer]:
            return [VlmAnswer(2.0, 0.0, from_choice=True) for _ in prompts]

    spec, engine = StageSpec(engine="e"), EngineSpec(backend="transformers", model="m")
    stage = Vlm("vlm", spec, engine, Chooser())  # type: ignore[arg-type]
    (prediction,) = await stage.predict([photo(1)])
    assert prediction.evidence.from_choice


@pytest.mark.parametrize("name", ["vlm", "video"])
async def test_a_cancelled_call_decodes_no_further_images(name: StageName, monkeypatch: pytest.MonkeyPatch) -> None:
    pause, decode = PausePoint(at=2), language.open_rgb
    monkeypatch.setattr(language, "open_rgb", lambda *a: pause() or decode(*a))
    stage = opened(name, untrained.vlm())
    await pause.cancel_there(stage.predict([photo(1)] * 5))
    assert pause.steps == 2
    await stage.aclose()


async def test_an_engine_answers_the_same_after_sleep(fast: Stage) -> None:
    assert isinstance(fast, Vlm)
    before = (await fast.predict([photo(1)]))[0].logit
    await fast.sleep()
    await fast.wake()
    assert (await fast.predict([photo(1)]))[0].logit == before


async def test_an_image_with_an_extreme_aspect_ratio_is_left_out_of_the_batch(fast: Stage) -> None:
    good = photo(1)
    thin = replace(good, images=(to_jpeg(Image.new("RGB", (1600, 4)), 90),))
    assert [o.logit is None for o in await fast.predict([thin, good])] == [True, False]
