"""The input of 8-bit graphs: the bytes of thumbnails, with their normalization in the weights of the first layer.

A first layer of stride s sees a block of s x s pixels as one pixel with 3 s^2 channels. The products are the same, and
it reads a few long rows in place of many short ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.onnx_folder import INPUT, THUMBS
from roadwork_serve.errors import ModelError

_LARGEST = 255


@dataclass(frozen=True, slots=True)
class BytesInput:
    """The input of a graph that `take_bytes` has changed."""

    #: Byte that stands for 0.
    zero: int
    #: Side of a block in pixels.
    block: int

    def pixels(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the input of the graph for blocks of `onnx_folder.blocks`."""
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
        batch, channels, *sides = given.type.tensor_type.shape.dim
        sizes = [batch.dim_param or batch.dim_value or None, *(each.dim_value for each in (*sides, channels))]
        graph.graph.node.remove(node)
        graph.graph.node.insert(0, helper.make_node("Transpose", [THUMBS], [node.output[0]], perm=[0, 3, 1, 2]))
        given.CopyFrom(helper.make_tensor_value_info(THUMBS, TensorProto.UINT8, sizes))


def take_bytes(graph: Any, side: int, mean: Sequence[float], std: Sequence[float]) -> BytesInput:
    """Change a graph of normalized pixels [n, 3, side, side] in place: it takes blocks of pixel values minus `zero`.

    The padding of the first layer, 0 among normalized pixels, is `zero` then: the byte closest to the mean of all
    channels. If the channels' means differ, it is no longer exactly each channel's mean.

    Args:
        graph: ONNX model whose first layer is a convolution, in float32.
        side: Side of the thumbnails in pixels.
        mean: Mean of each channel, for pixel values from 0 to 1.
        std: Standard deviation of each channel.

    Raises:
        ModelError: The first layer is not such a convolution.
    """
    from onnx import numpy_helper

    first, settings = _first_layer(graph, side)
    constants = {each.name: each for each in graph.graph.initializer}
    given = BytesInput(round(_LARGEST * float(np.mean(mean))), settings["strides"][0])
    weights, bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in first.input[1:])
    means, scales = (np.array(each)[:, None, None] for each in (mean, 1 / (_LARGEST * np.array(std))))
    weights *= scales
    bias += (weights * (given.zero - _LARGEST * means)).sum((1, 2, 3))
    weights, pads = _in_blocks(weights, given.block, settings["pads"], side)
    for name, values in zip(first.input[1:], (weights, bias), strict=True):
        constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    _set(first, {"strides": [1, 1], "kernel_shape": list(weights.shape[2:]), "pads": pads})
    shape, blocks = graph.graph.input[0].type.tensor_type.shape.dim, side // given.block
    for at, size in zip((1, 2, 3), (weights.shape[1], blocks, blocks), strict=True):
        shape[at].dim_value = size
    del graph.graph.value_info[:]  # shapes inside, those of before
    return given


def _first_layer(graph: Any, side: int) -> tuple[Any, dict[str, Any]]:
    """Return the node of the first layer, with a bias, and its settings. Raises ModelError unless it fits blocks."""
    from onnx import numpy_helper

    nodes = [node for node in graph.graph.node if INPUT in node.input]
    constants = {each.name: each for each in graph.graph.initializer}
    if len(nodes) == 1 and nodes[0].op_type == "Conv" and constants.keys() >= {*nodes[0].input[1:]}:
        (first,) = nodes
        found = {each.name: list(each.ints) or each.s or each.i for each in first.attribute}
        usual = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
        settings: dict[str, Any] = usual | found
        down, across = settings["strides"]
        plain = all(settings[name] == usual[name] for name in ("dilations", "group", "auto_pad"))
        if plain and down == across and side % down == 0:
            if len(first.input) == 2:
                first.input.append(f"{first.input[1]}_bias")
                zeros = np.zeros(constants[first.input[1]].dims[0], np.float32)
                graph.graph.initializer.append(numpy_helper.from_array(zeros, first.input[2]))
            return first, settings
    raise ModelError(
        "the first layer is not a plain convolution of the pixels, or its stride does not divide their side: "
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
