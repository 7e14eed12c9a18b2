"""Language models by ONNX Runtime give the answers that transformers gives with the same weights."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadwork_serve.cancellable_thread import CallCancelledError
from roadwork_serve.engines.export_graphs import export_graphs
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx_language import DECODER, VISION, WEIGHTS, OnnxLanguageEngine
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vlm import Prompt, VlmAnswer
from roadwork_serve.engines.weights import WEIGHTS as BUNDLED
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.load import load_profile

SIZES = ((448, 336), (320, 240), (100, 448), (31, 50), (900, 30))
MOST = 2e-3  # between logits; a resized pixel may be one step apart


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    dots = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(dots).resize((width, height), Image.Resampling.BICUBIC)


def clip(frames: int, width: int = 320, height: int = 180) -> Prompt:
    question = load_profile("mini").stages["video"].task.clip_prompt()
    images = tuple(picture(width, height, at) for at in range(frames))
    return Prompt(question, images, tuple(0.37 * at for at in range(frames)))


def photo(width: int = 320, height: int = 240, thinking: bool = False) -> Prompt:
    task = load_profile("mini").stages["vlm"].task
    return Prompt(task.reasoning_prompt() if thinking else task.prompt(), (picture(width, height),))


def ask(
    engine: OnnxLanguageEngine | VisionLanguageEngine, prompts: Sequence[Prompt], tokens: int = 0
) -> list[VlmAnswer]:
    return asyncio.run(engine.ask(prompts, tokens))


def assert_equal(ours: Sequence[VlmAnswer], theirs: Sequence[VlmAnswer]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert our.logit == pytest.approx(their.logit, abs=MOST)
        assert our.other_token_mass == pytest.approx(their.other_token_mass, abs=1e-4)
        assert (our.reasoning, our.tokens) == (their.reasoning, their.tokens)


def copied(name: str, folder: Path) -> Path:
    """Return a copy of bundled weights without their graphs."""
    return Path(shutil.copytree(BUNDLED / name, folder / name, ignore=shutil.ignore_patterns("*.onnx")))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_photo_of_any_size_gets_the_same_answer(size: tuple[int, int]) -> None:
    prompts = [photo(*size), replace(photo(*size), question="Is the road closed?")]
    ours, theirs = OnnxLanguageEngine(str(BUNDLED / "vlm")), VisionLanguageEngine(str(BUNDLED / "vlm"))
    assert_equal(ask(ours, prompts), ask(theirs, prompts))


@pytest.mark.parametrize("tokens", [1, 12, 48])
def test_the_reasoning_is_the_same(tokens: int) -> None:
    prompts = [photo(448, 252, thinking=True), photo(thinking=True)]
    ours, theirs = OnnxLanguageEngine(str(BUNDLED / "vlm")), VisionLanguageEngine(str(BUNDLED / "vlm"))
    answers = ask(ours, prompts, tokens)
    assert_equal(answers, [each for prompt in prompts for each in ask(theirs, [prompt], tokens)])
    assert all(answer.reasoning for answer in answers)


@pytest.mark.parametrize("frames", [1, 2, 8])
def test_a_clip_gets_the_same_answer(frames: int) -> None:
    prompts = [clip(frames), clip(frames, 90, 250)]
    ours, theirs = OnnxLanguageEngine(str(BUNDLED / "video")), VisionLanguageEngine(str(BUNDLED / "video"))
    assert_equal(ask(ours, prompts), [each for prompt in prompts for each in ask(theirs, [prompt])])


def test_settings_of_the_engine_have_the_same_effect() -> None:
    settings = {"max_pixels": 128 * 128, "question_first": True}
    ours, theirs = (kind(str(BUNDLED / "vlm"), **settings) for kind in (OnnxLanguageEngine, VisionLanguageEngine))
    plain = OnnxLanguageEngine(str(BUNDLED / "vlm"))
    assert_equal(ask(ours, [photo(448, 336)]), ask(theirs, [photo(448, 336)]))
    assert abs(ask(ours, [photo(448, 336)])[0].logit - ask(plain, [photo(448, 336)])[0].logit) > MOST


@pytest.mark.parametrize(("name", "prompt"), [("vlm", photo()), ("video", clip(3))])
def test_exported_graphs_read_the_weights_beside_them(name: str, prompt: Prompt, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    written = export_graphs(folder)
    assert [each.name for each in written] == [VISION, DECODER]
    assert_equal(ask(OnnxLanguageEngine(str(folder)), [prompt]), ask(VisionLanguageEngine(str(folder)), [prompt]))
    assert sum(each.stat().st_size for each in written) < (folder / WEIGHTS).stat().st_size / 10
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100_000])
    with pytest.raises(ModelError, match="cannot be opened"):
        OnnxLanguageEngine(str(folder))


def test_graphs_of_other_weights_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED / "vlm", tmp_path / "vlm"))
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    with pytest.raises(ModelError, match=r"written for other weights .* --format graphs --model"):
        OnnxLanguageEngine(str(folder))


def test_no_graph_tells_of_the_machine_it_was_written_on() -> None:
    graphs = sorted(BUNDLED.glob("*/*.onnx"))
    assert len(graphs) >= 6
    assert not [each for each in graphs if b".py" in each.read_bytes() or b"/home" in each.read_bytes()]


def test_a_folder_that_it_cannot_run_is_refused(tmp_path: Path) -> None:
    folder = copied("vlm", tmp_path)
    with pytest.raises(ModelError, match=r"no vision.onnx and no decoder.onnx: write the graphs with `roadwork export"):
        OnnxLanguageEngine(str(folder))
    shutil.copytree(BUNDLED / "vlm", folder, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="on the CPU in float32 only"):
        OnnxLanguageEngine(str(folder), LoadOptions(device="cuda"))
    for file, text, message in (
        ("config.json", json.dumps({"model_type": "llama"}), "cannot run a llama, only qwen3_vl and molmo2"),
        ("config.json", "{}", "cannot run a None"),
        ("config.json", json.dumps({"model_type": "qwen3_vl"}), "cannot be read"),
        ("processor_config.json", "[]", "cannot be read"),
        ("tokenizer.json", "{", "the tokenizer of .* cannot be read"),
    ):
        (folder / file).write_text(text)
        with pytest.raises(ModelError, match=message):
            OnnxLanguageEngine(str(folder))
        shutil.copy(BUNDLED / "vlm" / file, folder / file)
    OnnxLanguageEngine(str(folder))


def test_each_family_takes_its_kind_of_prompt() -> None:
    with pytest.raises(ModelError, match="sees clips under transformers or vLLM only"):
        ask(OnnxLanguageEngine(str(BUNDLED / "vlm")), [clip(2)])
    with pytest.raises(ModelError, match="sees photos under transformers or vLLM only"):
        ask(OnnxLanguageEngine(str(BUNDLED / "video")), [photo()])
    with pytest.raises(ModelError, match=r"remove language\.max_pixels"):
        OnnxLanguageEngine(str(BUNDLED / "video"), max_pixels=10_000)


def test_a_template_of_a_checkpoint_runs_in_a_sandbox(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED / "vlm", tmp_path / "vlm"))
    (folder / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(Exception, match="unsafe"):
        ask(OnnxLanguageEngine(str(folder)), [photo()])


async def test_a_cancelled_call_ends_before_the_next_token(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnnxLanguageEngine(str(BUNDLED / "vlm"))
    decode, calls = engine.decode, 0
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def counted(*args: object) -> object:
        nonlocal calls
        calls += 1
        loop.call_soon_threadsafe(started.set)
        return decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "decode", counted)
    monkeypatch.setattr(engine, "_ends", frozenset())
    call = asyncio.create_task(engine.ask([photo(thinking=True)] * 50, 200))
    await started.wait()
    call.cancel()
    with pytest.raises((asyncio.CancelledError, CallCancelledError)):
        await call
    assert calls < 1000
    await engine.aclose()
