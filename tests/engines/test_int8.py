"""8-bit graphs: made from photos, compared, refused, and run where the CPU has 8-bit dot products."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import ValidationError
from typer.testing import CliRunner

from roadwork_serve.cli.main import app
from roadwork_serve.engines import cpu_features, int8, onnx_folder
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.int8 import read_thumbs, write_int8_backbone
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx import INT8_FILE
from roadwork_serve.engines.onnx_features import OnnxFeatures
from roadwork_serve.engines.onnx_folder import FILE
from roadwork_serve.engines.onnx_tokens import OnnxTokens
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.testbed import scenes

LITE2 = Path(weights_folder("bundled:efficientnet-lite2"))
FEW = int8.MIN_PHOTOS
FOR_DRAWINGS = 0.15  # bound on the change; stage 1 is less sure of drawings than of photos
INT8, AUTO = LoadOptions(dtype="int8"), LoadOptions(dtype="auto")


def picture(seed: int) -> Image.Image:
    """Draw a street with something on it: not noise, which no scale measured on pictures covers."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (320, 240), tuple(rng.integers(120, 230, 3).tolist()))
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, 240), (130, 110), (190, 110), (320, 240)], fill=tuple(rng.integers(60, 110, 3).tolist()))
    for _ in range(6):
        x, y, size = (int(rng.integers(*span)) for span in ((0, 300), (80, 220), (6, 50)))
        color = tuple(rng.integers(0, 255, 3).tolist())
        draw.polygon([(x, y), (x - size // 2, y + size), (x + size // 2, y + size)], fill=color)
    return image


def thumbs(count: int, first: int = 0) -> NDArray[np.uint8]:
    return np.stack([np.asarray(picture(seed).resize((224, 224))) for seed in range(first, first + count)])


def copied(folder: Path) -> Path:
    """Copy the bundled backbone without its 8-bit graph."""
    return Path(shutil.copytree(LITE2, folder / "lite2", ignore=shutil.ignore_patterns(INT8_FILE)))


@pytest.fixture(scope="module")
def vnni() -> None:
    if not cpu_features.has_int8_dot_products():
        pytest.skip("this CPU has no 8-bit dot products (VNNI), without which 8-bit graphs are not exact")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "MAX_CHANGE", FOR_DRAWINGS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, vnni: None) -> tuple[Path, int8.Int8Graph]:
    folder = copied(tmp_path_factory.mktemp("int8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "MAX_CHANGE", FOR_DRAWINGS)
        return folder, write_int8_backbone(folder, thumbs(FEW))


def test_a_written_graph_gives_nearly_the_same_answers(written: tuple[Path, int8.Int8Graph], vnni: None) -> None:
    folder, result = written
    assert result.file == folder / INT8_FILE and result.photos == FEW // 2
    assert set(result.changes) == {"roadwork", "words", "patches"}
    assert result.file.stat().st_size < 0.7 * (folder / FILE).stat().st_size
    original, found = OnnxFeatures(str(folder)), OnnxFeatures(str(folder), INT8)
    seen = thumbs(8, 500)
    before, after = (engine.apply_heads(engine.extract(seen))["roadwork"] for engine in (original, found))
    assert not np.array_equal(before, after)
    assert np.corrcoef(before, after)[0, 1] > 0.9


def test_the_folder_keeps_its_identity_so_heads_stay_valid(written: tuple[Path, int8.Int8Graph]) -> None:
    assert fingerprint(str(written[0])) == fingerprint(str(LITE2))


def test_the_bundled_graph_is_of_the_bundled_weights(vnni: None) -> None:
    original, found = OnnxFeatures(str(LITE2)), OnnxFeatures(str(LITE2), INT8)
    seen = np.stack([np.asarray(scenes.photo(seed, 0.5).image.resize((224, 224))) for seed in range(7001, 7013)])
    before, after = (engine.apply_heads(engine.extract(seen))["roadwork"] for engine in (original, found))
    moved = np.abs(1 / (1 + np.exp(-after)) - 1 / (1 + np.exp(-before)))
    assert 0 < moved.mean() < 0.05  # 0.036; MAX_CHANGE is of photos
    assert np.corrcoef(before, after)[0, 1] > 0.9  # with the channels reversed it is 0.7


def test_a_graph_of_other_weights_is_refused(written: tuple[Path, int8.Int8Graph], tmp_path: Path, vnni: None) -> None:
    folder = copied(tmp_path)
    shutil.copyfile(written[0] / INT8_FILE, folder / INT8_FILE)
    with (folder / FILE).open("ab") as file:
        file.write(b"\x82\x01\x00")  # an empty field: another file, the same graph
    with pytest.raises(
        ModelError, match=r"was written for other weights .* again with `roadwork quantize .*or delete it"
    ):
        OnnxFeatures(str(folder), INT8)


def test_a_graph_that_takes_pixels_is_refused(written: tuple[Path, int8.Int8Graph], tmp_path: Path) -> None:
    folder = copied(tmp_path)
    graph = onnx.load(written[0] / INT8_FILE)
    graph.graph.input[0].name = graph.graph.node[0].input[0] = "pixels"
    onnx.save(graph, folder / INT8_FILE)
    with pytest.raises(
        ModelError,
        match=r"of an earlier version: .*`roadwork quantize .* --photos PHOTOS`, or delete it",
    ):
        OnnxFeatures(str(folder), INT8)


@pytest.mark.parametrize("dtype", ["int8", "auto"])
def test_heads_are_trained_in_float32(dtype: str) -> None:
    pixels = torch.zeros(1, 3, 224, 224)
    config = json.loads((LITE2 / "config.json").read_text())
    expected, found = (OnnxTokens(str(LITE2), config, LoadOptions(dtype=each))(pixels) for each in ("float32", dtype))
    assert torch.equal(expected, found)


def test_a_graph_in_8_bits_refuses_pixels(vnni: None) -> None:
    with pytest.raises(ModelError, match="takes thumbnails, not pixels: set dtype: float32"):
        OnnxFeatures(str(LITE2), INT8).folder.tokens(np.zeros((1, 3, 224, 224), np.float32))


def test_a_graph_that_differs_too_much_is_not_written(
    tmp_path: Path, vnni: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tmp_path)
    black = np.zeros((FEW // 2, 224, 224, 3), np.uint8)  # scales measured on them cover nothing of a picture
    with pytest.raises(
        ModelError, match=r"the probabilities change by 0\.\d+ \(roadwork\), .*the bound is 0\.03 for each"
    ):
        write_int8_backbone(folder, np.concatenate([black, thumbs(FEW // 2)]))
    assert not (folder / INT8_FILE).exists()


def test_too_few_photos_and_a_missing_head_are_refused(tmp_path: Path, vnni: None) -> None:
    folder = copied(tmp_path)
    with pytest.raises(ModelError, match=f"8-bit scales need at least {FEW} photos, and these are {FEW - 1}: add some"):
        write_int8_backbone(folder, thumbs(FEW - 1))
    (folder / "head.json").unlink()
    with pytest.raises(ModelError, match="has no head to compare with"):
        write_int8_backbone(folder, thumbs(FEW))


@pytest.mark.parametrize("model", ["bundled:backbone", "bundled:vlm", "no-such-folder"])
def test_other_models_are_refused_before_a_photo_is_read(model: str, tmp_path: Path, vnni: None) -> None:
    run = CliRunner().invoke(app, ["quantize", model, "--photos", str(tmp_path / "none")])
    assert run.exit_code == 2 and "not a folder with a convolutional backbone" in " ".join(run.output.split())


@pytest.mark.parametrize(
    ("cpu", "graph", "in_8_bits"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_auto_runs_8_bits_where_folder_and_cpu_have_them(
    cpu: bool, graph: bool, in_8_bits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_folder, "has_int8_dot_products", lambda: cpu)
    folder = LITE2 if graph else copied(tmp_path)
    seen = thumbs(2)
    float32, found = OnnxFeatures(str(folder)).extract(seen), OnnxFeatures(str(folder), AUTO).extract(seen)
    assert np.array_equal(float32, found) != in_8_bits


def test_a_cpu_without_8_bit_dot_products_writes_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "has_int8_dot_products", lambda: False)
    with pytest.raises(ModelError, match="this CPU has no 8-bit dot products"):
        write_int8_backbone(copied(tmp_path), thumbs(FEW))


@pytest.mark.parametrize(
    ("machine", "text", "wanted"),
    [
        ("x86_64", "processor : 0\nflags\t\t: sse avx2 avx512_vnni\n", True),
        ("x86_64", "flags\t\t: sse avx2 avx_vnni\n", True),
        ("x86_64", "flags\t\t: sse avx2\n", False),
        ("x86_64", "", False),
        ("x86_64", None, False),
        ("aarch64", "Features\t: asimddp\nflags\t: avx_vnni\n", False),
    ],
)
def test_dot_products_are_read_from_the_system(
    machine: str, text: str | None, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu_features, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu_features.platform, "machine", lambda: machine)
    assert cpu_features.has_int8_dot_products.__wrapped__() is wanted  # without its cache


def test_the_command_writes_it_from_a_folder_of_photos(tmp_path: Path, vnni: None, drawn: None) -> None:
    folder, photos = copied(tmp_path), tmp_path / "photos"
    photos.mkdir()
    for seed in range(FEW + 4):
        picture(seed).save(photos / f"{seed}.jpg")
    (photos / "notes.txt").write_text("no photo")
    assert read_thumbs(folder, photos).shape == (FEW + 4, 224, 224, 3)
    run = CliRunner().invoke(app, ["quantize", str(folder), "--photos", str(photos)])
    assert run.exit_code == 0, run.output
    assert f"on {FEW // 2 + 2} photos on which no scale was measured" in " ".join(run.output.split())
    assert (folder / INT8_FILE).exists()


def test_auto_is_float32_for_pytorch_and_refused_for_vllm() -> None:
    assert LoadOptions.of(EngineSpec(backend="transformers", model="x", dtype="auto")).dtype == "float32"
    assert LoadOptions.of(EngineSpec(backend="onnx", model="x", dtype="auto")).dtype == "auto"
    with pytest.raises(ValidationError, match="dtype: auto is for the first stage"):
        EngineSpec(backend="vllm", model="x", dtype="auto")
