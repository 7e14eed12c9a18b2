"""Graphs that take bytes: the same convolution over blocks of pixels, with the normalization in its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from roadwork_serve.engines.cpu_features import has_int8_dot_products
from roadwork_serve.engines.int8_input import take_bytes
from roadwork_serve.engines.onnx_folder import INPUT, THUMBS, blocks
from roadwork_serve.errors import ModelError

IMAGENET, HALF = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)
OUT = 6  # channels


def graph(side: int, kernel: int, bias: bool = True, **settings: Any) -> Any:
    """Return a graph of one convolution of an image with random weights."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(OUT, 3 // settings.get("group", 1), kernel, kernel)).astype(np.float32)
    constants = {"weights": weights} | ({"bias": rng.normal(size=OUT).astype(np.float32)} if bias else {})
    node = helper.make_node("Conv", [INPUT, *constants], ["map"], kernel_shape=[kernel, kernel], **settings)
    shapes = {INPUT: ["n", 3, side, side], "map": ["n", OUT, "h", "w"]}
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    parts = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph([node], "one layer", [given], [result], parts)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: Any, given: NDArray[np.float32]) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {INPUT: given})[0])


def normalized(thumbs: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    return ((thumbs / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, HALF])
@pytest.mark.parametrize(
    ("side", "kernel", "stride", "pads"),
    [
        (8, 3, 2, [0, 0, 1, 1]),
        (8, 3, 2, [1, 1, 1, 1]),
        (8, 3, 2, [0, 0, 0, 0]),
        (8, 1, 2, [0, 0, 0, 0]),
        (16, 7, 2, [3, 3, 3, 3]),
        (16, 4, 4, [0, 0, 0, 0]),
        (12, 5, 3, [2, 1, 0, 2]),
        (12, 3, 2, [0, 1, 0, 2]),
        (6, 3, 1, [1, 1, 1, 1]),
    ],
)
def test_the_convolution_is_the_same(
    side: int, kernel: int, stride: int, pads: list[int], mean: Sequence[float], std: Sequence[float]
) -> None:
    thumbs = np.random.default_rng(1).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    model = graph(side, kernel, bias=kernel != 3, strides=[stride, stride], pads=pads)
    before = run(model, normalized(thumbs, mean, std))
    given = take_bytes(model, side, mean, std)
    after = run(model, given.pixels(blocks(thumbs, given.block)))
    assert given.block == stride and after.shape == before.shape
    assert given.zero == round(255 * np.mean(mean))
    # What pads the image differs from 0 by what rounding the mean to a byte leaves, or by the spread of the means.
    border = -(-max(pads) // stride)
    inside = np.s_[:, :, border : -border or None, border : -border or None]
    assert np.allclose(before[inside], after[inside], atol=1e-4)
    if (mean, std) == HALF:
        assert np.allclose(before, after, atol=0.1)


@pytest.mark.parametrize(
    ("side", "settings"),
    [
        (9, {"strides": [2, 2]}),
        (8, {"strides": [2, 1]}),
        (8, {"strides": [2, 2], "dilations": [2, 2]}),
        (8, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        (8, {"strides": [2, 2], "group": 3}),
    ],
)
def test_other_first_layers_are_refused(side: int, settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="use float32 for this backbone"):
        take_bytes(graph(side, 3, **settings), side, *HALF)


def test_a_graph_that_begins_with_something_else_is_refused() -> None:
    model = graph(8, 3, strides=[2, 2])
    model.graph.node[0].input[0] = "relu"
    model.graph.node.insert(0, helper.make_node("Relu", [INPUT], ["relu"]))
    with pytest.raises(ModelError, match="the first layer is not a plain convolution of the pixels"):
        take_bytes(model, 8, *HALF)


@pytest.mark.skipif(not has_int8_dot_products(), reason="without VNNI, 8-bit products saturate")
@pytest.mark.parametrize("batch", ["n", None, 1])
@pytest.mark.parametrize(("mean", "std"), [IMAGENET, HALF])
def test_a_quantized_graph_takes_the_bytes(
    mean: Sequence[float], std: Sequence[float], batch: str | int | None, tmp_path: Path
) -> None:
    thumbs = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    model = graph(8, 3, strides=[2, 2])
    shape = [batch, 3, "height", "width"]  # as some exports leave it
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    expected = run(model, normalized(thumbs, mean, std))
    given = take_bytes(model, 8, mean, std)
    seen = iter([{INPUT: given.pixels(blocks(thumbs, given.block))}])

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(seen, None)

    options = {"TensorQuantOverrides": given.override}
    quantize_static(model, tmp_path / "int8.onnx", Reader(), per_channel=True, extra_options=options)
    quantized = onnx.load(tmp_path / "int8.onnx")
    given.finish(quantized)
    onnx.checker.check_model(quantized)
    session = onnxruntime.InferenceSession(quantized.SerializeToString())
    found = np.asarray(session.run(None, {THUMBS: blocks(thumbs, given.block)})[0])
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_a_block_holds_its_pixels_row_by_row() -> None:
    thumbs = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    found = blocks(thumbs, 2)
    assert found.shape == (2, 2, 3, 12)
    assert np.array_equal(found[1, 1, 2], thumbs[1, 2:4, 4:6].ravel())
