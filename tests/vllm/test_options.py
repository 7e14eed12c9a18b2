"""Settings of a profile that change how vLLM runs a model, on real engines."""

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
import torch

from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vllm import VllmEngine
from roadwork_serve.engines.vlm import NO, YES, VlmAnswer
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import SamplingSettings
from tests import untrained
from tests.vllm.conftest import CONTEXT, MAX_PIXELS, clip, photo, spec

pytestmark = pytest.mark.asyncio(loop_scope="session")  # an engine lives in one event loop
EQUAL = 2e-3  # logits: both compute in float32, in another order
ROUGHLY = 0.1  # one of the two computes in bfloat16
PHOTOS = [photo("orange"), photo("grey", 128, 128), photo("black", 96, 160)]
SMALL = {"language": {"context_tokens": CONTEXT, "max_pixels": MAX_PIXELS}}


@pytest.fixture(scope="module")
def reference() -> VisionLanguageEngine:
    return VisionLanguageEngine(str(untrained.vlm()), max_pixels=MAX_PIXELS)


def logits(answers: list[VlmAnswer]) -> list[float]:
    return [answer.logit for answer in answers]


def weights_of(worker: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type and shape of each weight. Runs in the process with the model."""
    named = worker.model_runner.model.named_parameters()
    return {name: (str(value.dtype), tuple(value.shape)) for name, value in named}


def kept(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """Change language settings that are read with each prompt, for one test."""
    monkeypatch.setattr(engine, "_language", engine._language.model_copy(update=settings))


async def test_the_question_comes_first_if_the_profile_says_so(
    qwen: VllmEngine, reference: VisionLanguageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture_first = logits(await qwen.ask(PHOTOS))
    kept(qwen, monkeypatch, question_first=True)
    monkeypatch.setattr(reference, "question_first", True)
    ours = logits(await qwen.ask(PHOTOS))
    assert ours == pytest.approx(logits(await reference.ask(PHOTOS)), abs=EQUAL)
    assert max(abs(a - b) for a, b in zip(ours, picture_first, strict=True)) > EQUAL


async def test_sampled_reasoning_depends_on_the_seed_alone(qwen: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def reasoning(**settings: Any) -> list[str | None]:
        kept(qwen, monkeypatch, sampling=SamplingSettings(**settings))
        return [answer.reasoning for answer in await qwen.ask(PHOTOS, 12)]

    card = {"temperature": 1.0, "top_p": 0.95, "top_k": 20}
    first = await reasoning(**card, seed=1)
    assert await reasoning(**card, seed=1) == first
    assert await reasoning(**card, seed=2) != first
    assert await reasoning() != first


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fp8() -> AsyncGenerator[VllmEngine]:
    """Yield a Qwen3-VL in bfloat16, converted to FP8 on load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # sends `weights_of` to the process with the model
        settings = SMALL | {"quantization": "auto", "dtype": "bfloat16"}
        engine = VllmEngine(spec(untrained.vlm(), **settings), photos=True, clips=False, concurrency=4, stuck_s=90)
        yield engine
        await engine.aclose()


async def test_the_decoder_is_fp8_per_channel_and_the_vision_tower_is_not(
    fp8: VllmEngine, reference: VisionLanguageEngine
) -> None:
    (found,) = await fp8._engine.collective_rpc(weights_of)
    layers = [name for name in found if name.endswith("proj.weight") and "layers." in name]
    vision = [kind for name, (kind, _) in found.items() if "visual." in name]
    assert layers and vision
    assert set(vision) == {"torch.bfloat16"}
    for name in layers:
        kind, (_, outputs) = found[name]
        assert kind == "torch.float8_e4m3fn"
        assert math.prod(found[f"{name}_scale"][1]) == outputs  # a scale for each channel
    assert logits(await fp8.ask(PHOTOS)) == pytest.approx(logits(await reference.ask(PHOTOS)), abs=0.3)


async def test_the_output_layer_computes_in_float32(fp8: VllmEngine) -> None:
    assert fp8._engine.model_config.dtype == torch.bfloat16
    assert fp8._engine.model_config.head_dtype == torch.float32
    answers = logits(await fp8.ask(PHOTOS))
    # A difference of two bfloat16 logits is a multiple of 2 ** -8 of the larger one, and hence exact in bfloat16 here.
    assert any(value != float(torch.tensor(value).bfloat16()) for value in answers)


async def test_a_score_head_returns_the_logit_of_yes_against_no(reference: VisionLanguageEngine) -> None:
    scoring = SMALL | {"vllm": {"kv_cache_gib": 0.25, "enforce_eager": True, "score_head": True}}
    engine = VllmEngine(spec(untrained.vlm(), **scoring), photos=True, clips=False, concurrency=4, stuck_s=90)
    try:
        answers = await engine.ask(PHOTOS)
        with pytest.raises(ModelError, match=r"score_head generates no reasoning: remove it, or options\.thinking"):
            await engine.ask(PHOTOS[:1], reasoning_tokens=4)
        again = await asyncio.gather(*(engine.ask(PHOTOS) for _ in range(4)))
    finally:
        await engine.aclose()
    yes, no = (reference.tokenizer.convert_tokens_to_ids(words[0]) for words in (YES, NO))
    for answer, prompt in zip(answers, PHOTOS, strict=True):
        with torch.inference_mode():
            row = reference.model(**reference.encode([prompt])).logits[0, -1]
        assert answer.logit == pytest.approx(float(row[yes] - row[no]), abs=EQUAL)
        assert answer.other_token_mass is None
    assert all(logits(each) == pytest.approx(logits(answers), abs=EQUAL) for each in again)


async def test_a_score_head_is_refused_for_other_families() -> None:
    scoring = {"vllm": {"kv_cache_gib": 0.25, "score_head": True}}
    with pytest.raises(ConfigError, match=r"vllm\.score_head is only for Qwen3-VL; remove it"):
        VllmEngine(spec(untrained.video(), **scoring), photos=False, clips=True, concurrency=1, stuck_s=90)


async def test_qwen_3_5_answers_with_and_without_thinking() -> None:
    """Its template thinks unless it is told not to. In bfloat16, which vLLM's linear attention needs on a CPU."""
    settings = {"dtype": "bfloat16", "vllm": {"kv_cache_gib": 0.25, "enforce_eager": True,
                "arguments": {"enable_prefix_caching": False}}}  # fmt: skip
    hybrid = spec(untrained.hybrid_vlm(), **SMALL | settings)
    engine = VllmEngine(hybrid, photos=True, clips=True, concurrency=4, stuck_s=90)
    clips = [clip("red", "green")]
    try:
        ours = await engine.ask(PHOTOS)
        thinking = await engine.ask(PHOTOS, reasoning_tokens=9)
        of_clips = await engine.ask(clips)
    finally:
        await engine.aclose()
    reference = VisionLanguageEngine(str(untrained.hybrid_vlm()), max_pixels=MAX_PIXELS)
    theirs = [(await reference.ask([each]))[0] for each in PHOTOS]
    assert logits(ours) == pytest.approx(logits(theirs), abs=ROUGHLY)
    assert all(answer.tokens == 1 and answer.reasoning is None for answer in ours)
    assert all(answer.reasoning is not None and 1 < answer.tokens <= 9 + 8 for answer in thinking)
    assert logits(of_clips) == pytest.approx(logits(await reference.ask(clips)), abs=ROUGHLY)
