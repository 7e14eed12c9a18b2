"""The product's own vLLM engine against the transformers engine, on the same checkpoints."""

import asyncio
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from roadwork_serve.engines.chat import chat_text, encoder, end_of_reasoning
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vllm import VllmEngine
from roadwork_serve.engines.vlm import VlmAnswer
from roadwork_serve.errors import ConfigError, ModelError
from tests import untrained
from tests.vllm.conftest import CONTEXT, MAX_PIXELS, clip, photo, spec

pytestmark = pytest.mark.asyncio(loop_scope="session")  # an engine lives in one event loop
EQUAL = 2e-3  # logits: both compute in float32, in another order
PHOTOS = [photo("orange"), photo("grey", 320, 224), photo("black", 96, 160)]  # the second has more than MAX_PIXELS


@pytest.fixture(scope="module")
def reference() -> VisionLanguageEngine:
    return VisionLanguageEngine(str(untrained.vlm()), max_pixels=MAX_PIXELS)


def logits(answers: list[VlmAnswer]) -> list[float]:
    return [answer.logit for answer in answers]


async def test_photos_get_the_same_probability_as_with_transformers(
    qwen: VllmEngine, reference: VisionLanguageEngine
) -> None:
    ours, theirs = await qwen.ask(PHOTOS), await reference.ask(PHOTOS)
    assert logits(ours) == pytest.approx(logits(theirs), abs=EQUAL)
    assert [a.other_token_mass for a in ours] == pytest.approx([a.other_token_mass for a in theirs], abs=EQUAL)
    assert len({round(logit, 4) for logit in logits(ours)}) == len(PHOTOS)  # they do differ
    assert all(answer.tokens == 1 and answer.compute_ms > 0 and not answer.from_choice for answer in ours)


async def test_clips_get_the_same_probability_as_with_transformers(
    qwen: VllmEngine, reference: VisionLanguageEngine
) -> None:
    clips = [clip("red", "green", "blue", "white"), clip("red", "green")]
    ours = await qwen.ask(clips)
    theirs = [(await reference.ask([each]))[0] for each in clips]
    assert logits(ours) == pytest.approx(logits(theirs), abs=EQUAL)


async def test_reasoning_stays_in_its_budget_and_matches_transformers(
    qwen: VllmEngine, reference: VisionLanguageEngine
) -> None:
    for budget in (1, 9):
        ours, theirs = await qwen.ask(PHOTOS, budget), await reference.ask(PHOTOS, budget)
        ending = len(encoder(qwen.tokenizer)(end_of_reasoning(chat_text(qwen.processor, PHOTOS[0], True))))
        assert [answer.reasoning for answer in ours] == [answer.reasoning for answer in theirs]
        assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]
        assert all(answer.tokens <= budget + ending + 1 for answer in ours)
        assert logits(ours) == pytest.approx(logits(theirs), abs=EQUAL)


async def test_a_cancelled_call_leaves_the_engine(qwen: VllmEngine) -> None:
    began = time.monotonic()
    long = asyncio.create_task(qwen.ask([photo("orange"), photo("grey")], reasoning_tokens=CONTEXT // 2))
    while qwen._engine.output_processor.get_num_unfinished_requests() < 2:
        assert time.monotonic() - began < 30 and not long.done()
        await asyncio.sleep(0.005)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert qwen._engine.output_processor.get_num_unfinished_requests() == 0
    assert len(await qwen.ask(PHOTOS)) == len(PHOTOS)


async def test_concurrent_calls_get_the_same_answers(qwen: VllmEngine) -> None:
    alone = logits(await qwen.ask(PHOTOS))
    together = await asyncio.gather(*(qwen.ask(PHOTOS) for _ in range(8)))
    for answers in together:
        assert logits(answers) == pytest.approx(alone, abs=EQUAL)
    await qwen.check()


async def test_engine_arguments_with_a_profile_setting_are_rejected() -> None:
    twice = {"kv_cache_gib": 0.25, "arguments": {"max_model_len": 9}}
    with pytest.raises(ConfigError, match=r"vllm\.arguments has max_model_len, which the profile sets elsewhere"):
        VllmEngine(spec(untrained.vlm(), vllm=twice), photos=True, clips=False, concurrency=1, stuck_s=90)


async def test_a_checkpoint_that_vllm_cannot_run_is_named(tmp_path: Path) -> None:
    shutil.copytree(untrained.vlm(), tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"vLLM cannot start .*broken: .*The cause is in its log"):
        VllmEngine(spec(tmp_path / "broken"), photos=True, clips=False, concurrency=1, stuck_s=90)


async def test_molmo_2_adds_image_features_to_the_patch_embedding(tmp_path: Path) -> None:
    """VLLM 0.32 alone would replace it, which a large embedding makes visible.

    Another difference is undone: its CPU attention is causal for image tokens.
    """
    folder = tmp_path / "molmo-2"
    shutil.copytree(untrained.video(), folder)
    weights = load_file(folder / "model.safetensors")
    patch = json.loads((folder / "config.json").read_text())["image_patch_id"]
    embedding = weights["model.transformer.wte.embedding"]
    embedding[patch] = torch.linspace(-1, 1, embedding.shape[1]).to(embedding.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    clips = [clip("red", "green", "blue", "white"), clip("red", "green")]
    engine = VllmEngine(spec(folder), photos=False, clips=True, concurrency=2, stuck_s=90)
    try:
        ours = await engine.ask(clips)
    finally:
        await engine.aclose()
    reference = VisionLanguageEngine(str(folder))
    before = VisionLanguageEngine(str(untrained.video()))
    for answer, each in zip(ours, clips, strict=True):
        inputs = reference.encode([each])
        assert isinstance(inputs.pop("mm_token_type_ids"), torch.Tensor)
        assert answer.logit == pytest.approx(reference.answer(inputs)[0].logit, abs=EQUAL)
        assert abs(answer.logit - before.answer(inputs)[0].logit) > 10 * EQUAL  # the embedding matters


async def test_a_silently_ended_engine_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.utils import CoreEngineProcManager

    awake = threading.Event()
    monkeypatch.setattr(CoreEngineProcManager, "monitor_engine_liveness", lambda _: awake.wait())
    engine = VllmEngine(spec(untrained.vlm()), photos=True, clips=False, concurrency=1, stuck_s=90)
    try:
        await engine.ask([photo()])
        await engine.check()
        (process,) = engine._engine.engine_core.resources.engine_manager.processes
        process.kill()
        process.join(10)
        with pytest.raises(RuntimeError, match="vLLM's processes have ended: EngineCore"):
            await engine.check()
    finally:
        await engine.aclose()
        awake.set()
