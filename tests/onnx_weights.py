"""Weights of an encoder in a graph that PyTorch exported to ONNX, by transformers' names."""

from typing import Any

import numpy as np

_PREFIX = "backbone."
POSITIONS = "embeddings.position_embeddings"


def read_dinov2(graph: Any) -> dict[str, np.ndarray]:
    """Reads the weights of a Dinov2Model.

    Kernels have lost their names and are transposed, since a dense layer becomes a MatMul and an
    Add; but the node that multiplies by one is called after its module. The class token's position
    and the grid's are two constants, which meet where the second has been interpolated.

    Args:
        graph: an onnx.GraphProto, in which the encoder is called `backbone`.
    """
    from onnx import numpy_helper

    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    found = {
        name.removeprefix(_PREFIX): array
        for name, array in arrays.items()
        if name.startswith(_PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            module, _, _ = node.name.strip("/").replace("/", ".").rpartition(".")
            found[f"{module.removeprefix(_PREFIX)}.weight"] = arrays[node.input[1]].T
    makers = {node.output[0]: node for node in graph.node}
    first, grid = _positions(makers).input
    while grid not in arrays:
        grid = makers[grid].input[0]
    found[POSITIONS] = np.concatenate([arrays[first], arrays[grid]], axis=1)
    return found


def _positions(makers: Any) -> Any:
    """The node that joins the positions of the class token with those of the grid."""
    (add,) = (node for node in makers.values() if node.name == "/backbone/embeddings/Add")
    return makers[add.input[1]]
