"""A PyTorch module as an ONNX program, by PyTorch's own exporter."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roadwork_serve.errors import ModelError


def to_onnx(
    module: nn.Module, inputs: Mapping[str, Tensor], shapes: Mapping[str, Mapping[int, Any]], outputs: Sequence[str]
) -> Any:
    """Return a module as torch's ONNXProgram, without the exporter's notes, which name files of this machine.

    Args:
        module: The module.
        inputs: An example of each argument of `forward`, by name. No dimension of other sizes may be 0 or 1 here.
        shapes: By argument the dimensions that have other sizes, each with a `torch.export.Dim`.
        outputs: Names of the outputs.

    Raises:
        ModelError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401 - else torch reports it less clearly
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError("`roadwork export` needs onnx and onnxscript: pip install 'roadwork-serve[export]'") from error
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # warnings of the exporter about itself
        program: Any = torch.onnx.export(
            module.eval(),
            kwargs=dict(inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: dict(each) for name, each in shapes.items()},
            dynamo=True,
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    return program
