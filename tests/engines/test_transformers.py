import math
from typing import Any

import pytest
import torch
from PIL import Image

from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.transformers import Prompt, VisionLanguageEngine
from roadwork_serve.errors import ModelError
from tests import untrained
from tests.recording_lock import PausePoint


@pytest.fixture(scope="module")
def engine() -> VisionLanguageEngine:
    return VisionLanguageEngine(str(untrained.vlm()))


def picture(colour: str, width: int = 160, height: int = 96) -> Prompt:
    return Prompt("Is there active road work?", (Image.new("RGB", (width, height), colour),))


def test_a_batch_of_different_sizes_answers_as_each_alone(engine: VisionLanguageEngine) -> None:
    prompts = [picture("orange"), picture("grey", 320, 224), picture("black", 96, 160)]
    together = engine.answer(engine.encode(prompts))
    alone = [engine.answer(engine.encode([p]))[0] for p in prompts]
    assert [a.logit for a in together] == pytest.approx([a.logit for a in alone], abs=1e-3)
    assert [a.other_token_mass for a in together] == pytest.approx([a.other_token_mass for a in alone], abs=1e-3)


def test_the_logit_sums_all_single_token_spellings(engine: VisionLanguageEngine) -> None:
    inputs = engine.encode([picture("orange")])
    (answer,) = engine.answer(inputs)
    with torch.inference_mode():
        p = torch.softmax(engine.model(**inputs).logits[0, -1].float(), -1)
    vocabulary = engine.tokenizer.get_vocab()
    yes, no = (
        [vocabulary[s + w] for w in words for s in ("", "Ġ")] for words in (("YES", "Yes", "yes"), ("NO", "No", "no"))
    )
    assert answer.logit == pytest.approx(math.log(p[yes].sum()) - math.log(p[no].sum()), abs=1e-4)
    assert answer.other_token_mass == pytest.approx(1 - p[yes].sum().item() - p[no].sum().item(), abs=1e-5)


def test_question_follows_the_image(engine: VisionLanguageEngine) -> None:
    text = engine.tokenizer.decode(engine.encode([picture("orange")])["input_ids"][0])
    assert text.index("<|vision_end|>") < text.index("Is there active road work?")
    assert text.endswith("<|im_start|>assistant\n")


def test_thinking_prompt_opens_reasoning(engine: VisionLanguageEngine) -> None:
    text = engine.tokenizer.decode(engine.encode([picture("orange")], thinking=True)["input_ids"][0])
    assert text.endswith("<think>\n")


def test_unfinished_reasoning_is_closed_and_answered(engine: VisionLanguageEngine) -> None:
    prompts = [picture("orange"), picture("grey", 320, 224)]
    inputs = engine.encode(prompts, thinking=True)
    answers = engine.think(inputs, 5)
    closing = engine.tokenizer.encode("</think>\n\n", add_special_tokens=False)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.reasoning is not None
        assert answer.tokens <= 5 + len(closing) + 1
        (alone,) = engine.think(engine.encode([prompt], thinking=True), 5)
        assert answer.logit == pytest.approx(alone.logit, abs=1e-3)


def test_the_answer_after_reasoning_is_that_of_the_whole_text(engine: VisionLanguageEngine) -> None:
    inputs = engine.encode([picture("orange")], thinking=True)
    (answer,) = engine.think(inputs, 4)
    with torch.inference_mode():
        written = engine.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    end = engine.tokenizer.encode("</think>\n\n", add_special_tokens=False)
    whole = torch.cat([written, torch.tensor([end])], dim=1)
    extra = whole.shape[1] - inputs["input_ids"].shape[1]
    again = inputs | {
        "input_ids": whole,
        "attention_mask": torch.ones_like(whole),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, extra)),
    }
    assert engine.answer(again)[0].logit == pytest.approx(answer.logit, abs=1e-3)


async def test_cancelled_reasoning_ends_before_its_next_token(engine: VisionLanguageEngine) -> None:
    pause = PausePoint(at=3)
    hook = engine.model.register_forward_pre_hook(pause)
    try:
        await pause.cancel_there(engine.ask([picture("orange")], reasoning_tokens=400))
    finally:
        hook.remove()
    assert pause.steps == 3
    (answer,) = await engine.ask([picture("orange")], reasoning_tokens=2)
    assert math.isfinite(answer.logit)


async def test_cancelled_prompts_do_not_reach_the_model(
    engine: VisionLanguageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause, passes = PausePoint(), PausePoint(at=0)
    encode = engine.encode
    monkeypatch.setattr(engine, "encode", lambda *a, **k: pause() or encode(*a, **k))
    hook = engine.model.register_forward_pre_hook(passes)
    try:
        await pause.cancel_there(engine.ask([picture("orange")]))
    finally:
        hook.remove()
    assert passes.steps == 0


def test_max_pixels_caps_the_image() -> None:
    capped = VisionLanguageEngine(str(untrained.vlm()), max_pixels=64 * 64)
    assert capped.encode([picture("orange", 448, 336)])["pixel_values"].shape[0] * 16 * 16 <= 64 * 64


def test_clip_frames_carry_their_timestamps() -> None:
    engine = VisionLanguageEngine(str(untrained.video()))
    frames = tuple(Image.new("RGB", (64, 48), c) for c in ("red", "green", "blue"))
    inputs = engine.encode([Prompt("Is there?", frames, (0.0, 1.5, 3.2))])
    text = engine.tokenizer.decode(inputs["input_ids"][0]).replace("<im_patch>", "")
    assert "0.0 <frame_start><frame_end> 1.5 <frame_start><frame_end> 3.2 <frame_start><frame_end>" in text
    assert math.isfinite(engine.answer(inputs)[0].logit)


def test_a_missing_checkpoint_is_an_error_with_instructions(tmp_path) -> None:
    with pytest.raises(ModelError, match="Give a folder"):
        VisionLanguageEngine(str(tmp_path / "nowhere"))


def test_yes_and_no_are_computed_in_float32_in_a_model_of_half_precision() -> None:
    """A trained model's logits are around 20, where bfloat16 has steps of 1/8."""
    engine = VisionLanguageEngine(str(untrained.vlm()), LoadOptions(dtype="bfloat16"))
    head: Any = engine.model.get_output_embeddings()
    hidden = torch.full((1, 1, head.in_features), 4.0, dtype=torch.bfloat16)
    with torch.inference_mode():
        logits = head(hidden)[0, 0]
        exact = hidden[0, 0].double() @ head.weight.double().T
        rounded = torch.nn.functional.linear(hidden, head.weight)[0, 0]
    rows = [*engine.yes, *engine.no]
    assert logits.dtype == torch.float32
    assert logits[rows].tolist() == pytest.approx(exact[rows].tolist(), abs=1e-5)
    assert max(abs(float(rounded[row]) - float(exact[row])) for row in rows) > 1e-4  # bfloat16 alone rounds
    (answer,) = engine.answer(engine.encode([picture("orange")]))
    assert answer.logit != float(torch.tensor(answer.logit).bfloat16())
