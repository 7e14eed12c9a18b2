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

        first, settings = _first_layer(graph)
        shape = graph.graph.input[0].type.tensor_type.shape.dim
        side, block = shape[-1].dim_value, settings["strides"][0]
        #: Byte that stands for 0.
        self.zero = round(_LARGEST * float(np.mean(mean)))
        #: Side of a block.
        self.block = block
        constants = {each.name: each for each in graph.graph.initializer}
        weights, bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in first.input[1:])
        means, scales = (np.array(each)[:, None, None] for each in (mean, 1 / (_LARGEST * np.array(std))))
        weights *= scales
        bias += (weights * (self.zero - _LARGEST * means)).sum((1, 2, 3))
        weights, pads = _in_blocks(weights, block, settings["pads"], side)
        for name, values in zip(first.input[1:], (weights, bias), strict=True):
            constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
        _set(first, {"strides": [1, 1], "kernel_shape": list(weights.shape[2:]), "pads": pads})
        for at, size in zip((1, 2, 3), (3 * block**2, side // block, side // block), strict=True):
            shape[at].dim_value = size
        del graph.graph.value_info[:]  # shapes inside, those of before

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


def _first_layer(graph: Any) -> tuple[Any, dict[str, Any]]:
    """Return the node of the first layer, and its settings. Raises ModelError unless it fits blocks."""
    nodes = [node for node in graph.graph.node if INPUT in node.input]
    if len(nodes) == 1 and nodes[0].op_type == "Conv":
        (first,) = nodes
        given = {each.name: list(each.ints) or each.s or each.i for each in first.attribute}
        usual = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
        settings: dict[str, Any] = usual | given
        constants = {each.name for each in graph.graph.initializer}
        side, (down, across) = graph.graph.input[0].type.tensor_type.shape.dim[-1].dim_value, settings["strides"]
        plain = all(settings[name] == usual[name] for name in ("dilations", "group", "auto_pad"))
        if plain and down == across and side % down == 0 and len(first.input) == 3 and constants >= {*first.input[1:]}:
            return first, settings
    raise ModelError(
        "the first layer is no plain convolution of the pixels, or its stride does not divide their side: "
        "use float32 for this backbone"
    )


def _set(node: Any, settings: dict[str, Any]) -> None:
    from onnx import helper

    kept = [each for each in node.attribute if each.name not in settings]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in settings.items())])


def _in_blocks(
    weights: NDArray[np.float64], block: int, pads: Sequence[int], side: int
) -> tuple[NDArray[np.float64], list[int]]:
    """Return weights [out, 3 * block^2, h, w] and padding with which a convolution of blocks is that of their pixels.

    Args:
        weights: Of the pixels, [out, 3, h, w].
        block: Side of a block, and stride of the convolution of the pixels.
        pads: Padding of the pixels: top, left, bottom, right.
        side: Side of the image in pixels.
    """
    count, channels, *kernel = weights.shape
    begin = [-(-pad // block) for pad in pads[:2]]  # blocks before the image
    span = [(size - 1 - pad) // block + 1 + before for size, pad, before in zip(kernel, pads[:2], begin, strict=True)]
    outputs = [(side + pads[at] + pads[at + 2] - kernel[at]) // block + 1 for at in (0, 1)]
    end = [outputs[at] - 1 + span[at] - side // block - begin[at] for at in (0, 1)]
    moved = np.zeros((count, block, block, channels, *span))
    for y, x in np.ndindex(*kernel):
        (row, dy), (column, dx) = divmod(y - pads[0], block), divmod(x - pads[1], block)
        moved[:, dy, dx, :, row + begin[0], column + begin[1]] = weights[:, :, y, x]
    return moved.reshape(count, block**2 * channels, *span), [*begin, *end]
