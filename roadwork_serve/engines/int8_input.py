"""The input of 8-bit graphs: the bytes of thumbnails, with their normalization in the weights of the first layer.

A first layer of stride s sees a block of s x s pixels as one pixel with 3 s^2 channels. The products are the same, and
onnxruntime reads rows of that many channels faster than rows of three.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.onnx_folder import BYTES, INPUT
from roadwork_serve.errors import ModelError

_LARGEST = 255


class BytesInput:
    """Changes a graph of normalized pixels [n, 3, side, side] to one of bytes, before and after its quantization."""

    def __init__(self, graph: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        """Change the graph in place: its input becomes blocks of pixel values minus `zero`, in float32.

        What pads the image, 0 among normalized pixels, becomes `zero`, the byte next to their mean. Where channels have
        different means, that is another value at the border.

        Args:
            graph: ONNX model whose first layer is a convolution.
            mean: Mean of each channel for its pixels, of 1.
            std: Standard deviation of each.

        Raises:
            ModelError: The first layer is another, or does not fit blocks.
        """
        from onnx import numpy_helper

        nodes = [node for node in graph.graph.node if INPUT in node.input]
        constants = {each.name: each for each in graph.graph.initializer}
        side = graph.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
        first = nodes[0] if len(nodes) == 1 and nodes[0].op_type == "Conv" else None
        settings = {} if first is None else _settings(first)
        stride = settings.get("strides", [1, 1])[0]
        if first is None or not _fits(settings, first, constants, side, stride):
            raise ModelError(
                "the first layer is no plain convolution of the pixels, or its stride does not divide their side: "
                "use float32 for this backbone"
            )
        #: Byte that stands for 0.
        self.zero = round(_LARGEST * float(np.mean(mean)))
        #: Side of a block.
        self.block = stride
        weights, bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in first.input[1:3])
        scale, offset = ((np.array(each)[:, None, None]) for each in (1 / (_LARGEST * np.array(std)), mean))
        bias = bias + (weights * (scale * (self.zero - _LARGEST * offset))).sum((1, 2, 3))
        pads = settings.get("pads", [0, 0, 0, 0])
        count = _outputs(side, weights.shape[-1], stride, pads)
        weights, pads = _in_blocks(weights * scale, stride, pads, side // stride, count)
        for name, values in zip(first.input[1:3], (weights, bias), strict=True):
            constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
        _set(first, {"strides": [1, 1], "kernel_shape": list(weights.shape[2:]), "pads": pads})
        del graph.graph.value_info[:]  # shapes inside, those of before
        shape = graph.graph.input[0].type.tensor_type.shape.dim
        for at, size in zip((1, 2, 3), (3 * stride**2, side // stride, side // stride), strict=True):
            shape[at].dim_value = size

    def pixels(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the input of the changed graph for the output of `OnnxFolder.blocks`."""
        return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2)).astype(np.float32) - self.zero

    @property
    def override(self) -> dict[str, list[dict[str, Any]]]:
        """The scale of the input, as onnxruntime's quantization takes it."""
        from onnxruntime.quantization import QuantType

        whole = {"quant_type": QuantType.QUInt8, "scale": np.array(1.0, np.float32)}
        return {INPUT: [{**whole, "zero_point": np.array(self.zero, np.uint8)}]}

    def finish(self, graph: Any) -> None:
        """Change the quantized graph in place: it takes the blocks as bytes, [n, side / s, side / s, 3 s^2]."""
        from onnx import TensorProto, helper

        (node,) = (each for each in graph.graph.node if INPUT in each.input)
        (given,) = graph.graph.input
        batch, channels, *sides = (each.dim_param or each.dim_value for each in given.type.tensor_type.shape.dim)
        graph.graph.node.remove(node)
        graph.graph.node.insert(0, helper.make_node("Transpose", [BYTES], [node.output[0]], perm=[0, 3, 1, 2]))
        given.CopyFrom(helper.make_tensor_value_info(BYTES, TensorProto.UINT8, [batch, *sides, channels]))


def _settings(node: Any) -> dict[str, Any]:
    return {each.name: list(each.ints) or each.i for each in node.attribute}


def _set(node: Any, settings: dict[str, Any]) -> None:
    from onnx import helper

    kept = [each for each in node.attribute if each.name not in settings]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in settings.items())])


def _fits(settings: dict[str, Any], first: Any, constants: dict[str, Any], side: int, stride: int) -> bool:
    square = len(set(settings.get("strides", [1, 1]))) == 1 and side % stride == 0
    plain = settings.get("group", 1) == 1 and set(settings.get("dilations", [1])) == {1}
    padded = all(each.name != "auto_pad" or each.s == b"NOTSET" for each in first.attribute)
    return square and plain and padded and len(first.input) == 3 and all(name in constants for name in first.input[1:])


def _outputs(side: int, kernel: int, stride: int, pads: Sequence[int]) -> int:
    """Return the side of the output of a convolution."""
    return (side + pads[0] + pads[2] - kernel) // stride + 1


def _in_blocks(
    weights: NDArray[np.float64], stride: int, pads: Sequence[int], blocks: int, outputs: int
) -> tuple[NDArray[np.float64], list[int]]:
    """Return the weights [out, 3 s^2, k, k] and the padding of the same convolution over blocks."""
    count, channels, *kernel = weights.shape
    first = [-pads[0] // stride, -pads[1] // stride]  # block of the first row and of the first column
    last = [(size - 1 - pad) // stride for size, pad in zip(kernel, pads, strict=False)]
    spans = [end - begin + 1 for begin, end in zip(first, last, strict=True)]
    moved = np.zeros((count, stride, stride, channels, *spans))
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            (row, dy), (column, dx) = divmod(y - pads[0], stride), divmod(x - pads[1], stride)
            moved[:, dy, dx, :, row - first[0], column - first[1]] = weights[:, :, y, x]
    begin = [-first[0], -first[1]]
    end = [outputs - blocks - pad + span - 1 for pad, span in zip(begin, spans, strict=True)]
    return moved.reshape(count, stride**2 * channels, *spans), [*begin, *end]
