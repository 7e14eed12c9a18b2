import pytest
import torch
from PIL import Image

from roadwork_serve.cancellable_thread import CancellableThread
from roadwork_serve.engines.florence import Florence2, _ConfidenceRecorder
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.signs import Signs
from tests import untrained
from tests.recording_lock import PausePoint
from tests.stages.items import clip, photo

SIGN = (
    "</s><s>ROAD WORK<loc_100><loc_200><loc_300><loc_200><loc_300><loc_260><loc_100><loc_260>"
    "AHEAD<loc_100><loc_270><loc_300><loc_270><loc_300><loc_330><loc_100><loc_330></s>"
)


@pytest.fixture(scope="module")
def engine() -> Florence2:
    return Florence2(str(untrained.florence()), max_tokens=12)


def test_lines_have_the_positions_that_the_model_returns(engine: Florence2) -> None:
    first, second = engine.lines(SIGN, (1000, 500), 0.9)
    assert (first.text, second.text, first.confidence) == ("ROAD WORK", "AHEAD", 0.9)
    assert first.quad.shape == (4, 2)
    assert first.quad[0] == pytest.approx([100, 100], abs=1) and first.quad[2] == pytest.approx([300, 130], abs=1)


def test_empty_output_gives_no_line(engine: Florence2) -> None:
    assert engine.lines("</s><s></s>", (64, 64), 0.5) == []


def test_a_batch_is_read_as_each_image_alone(engine: Florence2) -> None:
    pictures = [Image.new("RGB", (320, 240), colour) for colour in ("orange", "white", "black")]
    together = engine.read(pictures)
    assert [[line.text for line in page] for page in together] == [
        [line.text for line in engine.read([picture])[0]] for picture in pictures
    ]
    assert engine.read([]) == []


def test_confidence_is_derived_from_token_probabilities(engine: Florence2) -> None:
    inputs = engine.processor(text="<OCR_WITH_REGION>", images=Image.new("RGB", (64, 64)), return_tensors="pt")
    recorder = _ConfidenceRecorder()
    with torch.inference_mode():
        written = engine.model.generate(
            **inputs, max_new_tokens=5, num_beams=1, do_sample=False, logits_processor=[recorder],
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        first = torch.log_softmax(torch.stack(written.scores)[:, 0].float(), -1)
    tokens = written.sequences[0, -len(first) :]
    wanted = first[torch.arange(len(first)), tokens].nan_to_num(neginf=0.0).mean().exp().item()
    assert recorder.confidences(written.sequences, engine.model.generation_config.pad_token_id) == [
        pytest.approx(wanted, rel=1e-4)
    ]


async def test_a_cancelled_call_ends_before_the_next_token() -> None:
    engine, worker, pause = Florence2(str(untrained.florence())), CancellableThread("test"), PausePoint(at=3)
    engine.model.model.language_model.decoder.register_forward_pre_hook(pause)
    engine.model.generation_config.min_new_tokens = 20  # untrained, it ends at once
    await pause.cancel_there(worker.run(engine.read, [Image.new("RGB", (64, 64))]))
    assert pause.steps == 3
    await worker.aclose()


def test_the_signs_stage_uses_it() -> None:
    stage = Signs(StageSpec(engine="e"), EngineSpec(backend="transformers", model=str(untrained.florence())))
    predictions = stage.predict([photo(1), clip(2)])
    assert len(predictions) == 2
    assert all(prediction.compute_ms > 0 for prediction in predictions)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_reads_text_too(dtype: str) -> None:
    reader = Florence2(str(untrained.florence()), LoadOptions(dtype=dtype), max_tokens=6)
    assert reader.model.dtype is getattr(torch, dtype)
    pages = reader.read([Image.new("RGB", (64, 64), "orange"), Image.new("RGB", (64, 48), "white")])
    assert len(pages) == 2
    assert all(0 < line.confidence <= 1 for page in pages for line in page)


def test_the_stage_passes_on_the_load_options_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[LoadOptions] = []
    monkeypatch.setattr("roadwork_serve.engines.florence.Florence2", lambda _, options: asked.append(options))
    spec = {"backend": "transformers", "model": "m", "revision": "v1", "device": "cuda", "num_gpus": 0.1}
    Signs(StageSpec(engine="e"), EngineSpec.model_validate(spec | {"gpu_memory_gib": 4, "dtype": "bfloat16"}))
    assert asked == [
        LoadOptions(
            dtype="bfloat16", device="cuda", threads=1, revision="v1", trust_remote_code=False, gpu_memory_gib=4
        )
    ]


def test_another_architecture_is_rejected() -> None:
    with pytest.raises(ModelError, match="Florence2ForConditionalGeneration"):
        Florence2(str(untrained.vlm()))
