import logging
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageDraw, ImageFont

from roadwork_serve.cancellable_thread import CancellableThread
from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.rapidocr import RapidOcr
from roadwork_serve.engines.registry import open_ocr
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.load import load_profile
from tests.recording_lock import PausePoint


@pytest.fixture(scope="module")
def engine() -> RapidOcr:
    return RapidOcr(threads=1, side=640)


def sign(text: str, at: tuple[int, int] = (300, 200), letters: int = 32, lean: float = 0.0) -> Image.Image:
    picture = Image.new("RGB", (800, 600), (120, 130, 140))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((at[0] - 20, at[1] - 20, at[0] + 260, at[1] + 60), (244, 122, 28))
    draw.text(at, text, "black", ImageFont.load_default(letters))
    return picture.rotate(lean, fillcolor=(120, 130, 140))


def test_a_line_is_read_with_its_position(engine: RapidOcr) -> None:
    ((line,),) = engine.read([sign("ROAD CLOSED")])
    assert line.text == "ROAD CLOSED" and 0.9 < line.confidence <= 1.0
    assert line.quad.shape == (4, 2) and line.quad.dtype == np.float32
    assert np.abs(line.quad[0] - (300, 203)).max() < 15  # starts where it was drawn
    assert line.quad[1, 0] - line.quad[0, 0] == pytest.approx(215, abs=30)


def test_an_image_without_text_has_no_lines(engine: RapidOcr) -> None:
    assert engine.read([Image.new("RGB", (640, 480), (90, 100, 90))]) == [[]]


@pytest.mark.parametrize("size", [(1, 1), (1600, 20), (2, 1600), (33, 31), (1600, 60)])
def test_odd_sizes_are_accepted(engine: RapidOcr, size: tuple[int, int]) -> None:
    assert engine.read([Image.new("RGB", size, "orange")]) == [[]]


def test_a_slanted_line_is_read(engine: RapidOcr) -> None:
    assert [line.text for line in engine.read([sign("ROAD CLOSED", lean=12)])[0]] == ["ROAD CLOSED"]


def test_red_and_blue_are_not_swapped(engine: RapidOcr) -> None:
    seen: list[np.ndarray] = []
    ocr = engine._ocr
    engine._ocr = lambda bgr: seen.append(bgr) or ocr(bgr)
    try:
        engine.read([Image.new("RGB", (64, 64), (200, 10, 30))])
    finally:
        engine._ocr = ocr
    assert seen[0][0, 0].tolist() == [30, 10, 200]


async def test_a_cancelled_call_reads_no_further_images(engine: RapidOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, pause, ocr = CancellableThread("test"), PausePoint(at=2), engine._ocr
    monkeypatch.setattr(engine, "_ocr", lambda bgr: pause() or ocr(bgr))
    await pause.cancel_there(worker.run(engine.read, [Image.new("RGB", (64, 64))] * 5))
    assert pause.steps == 2
    await worker.aclose()


def test_logs_nothing(engine: RapidOcr, capfd: pytest.CaptureFixture[str]) -> None:
    RapidOcr(threads=2).read([Image.new("RGB", (320, 240), "white")])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not logging.getLogger("RapidOCR").isEnabledFor(logging.WARNING)


def test_only_the_weights_in_the_wheel_are_known() -> None:
    with pytest.raises(ModelError, match="set model: PP-OCRv6-small"):
        RapidOcr("PP-OCRv5-server")


def test_on_a_gpu_both_models_are_opened_with_cuda(engine: RapidOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_profile("gpu-24gb", {"engines": {"ocr": {"device": "cuda", "num_gpus": 0.05}}}).engines["ocr"]
    with pytest.raises(ModelError, match="has no CUDAExecutionProvider: install onnxruntime-gpu"):
        open_ocr(spec)
    asked: list[tuple[str, object]] = []

    def session(file: Path, options: object, providers: list[tuple[str, dict[str, str]]]) -> SimpleNamespace:
        asked.append((file.name, providers))
        return SimpleNamespace(get_providers=lambda: [name for name, _ in providers])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    open_ocr(spec)
    cuda = [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"})]
    assert asked == [("PP-OCRv6_det_small.onnx", cuda), ("PP-OCRv6_rec_small.onnx", cuda)]


def test_nothing_heavy_is_imported_before_an_engine_is_made() -> None:
    heavy = {"rapidocr", "onnxruntime", "cv2", "torch"}
    code = f"import sys, roadwork_serve.engines.rapidocr; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_its_table_of_weights_is_read_once_and_whole() -> None:
    code = """
from omegaconf import OmegaConf
reads, load = [], OmegaConf.load
OmegaConf.load = staticmethod(lambda file: (reads.append(file.name), load(file))[1])
from roadwork_serve.engines.rapidocr import RapidOcr
RapidOcr()
from rapidocr.utils.model_resolver import LANG_MAPPING
print(reads.count("default_models.yaml"), len(LANG_MAPPING) > 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True"]


def denormal() -> float:
    return float(np.float32(1e-38) * np.float32(0.01))


@pytest.mark.skipif(sys.platform != "linux", reason="denormals are flushed on x86-64 Linux only")
def test_denormals_are_zero_within_the_block_and_its_thread_only() -> None:
    elsewhere: list[float] = []
    with flush_denormals():
        assert denormal() == 0.0
        with flush_denormals():
            assert denormal() == 0.0
        assert denormal() == 0.0
    assert denormal() > 0.0
    with pytest.raises(ZeroDivisionError), flush_denormals():
        _ = 1 / 0
    assert denormal() > 0.0
    other = threading.Thread(target=lambda: elsewhere.append(denormal()))
    with flush_denormals():
        pass
    other.start()
    other.join()
    assert elsewhere[0] > 0.0


def test_an_engine_does_not_change_denormals_of_its_thread(engine: RapidOcr) -> None:
    engine.read([Image.new("RGB", (64, 64))])
    assert denormal() > 0.0
