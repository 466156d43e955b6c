"""Exact replacements of slow CPU kernels in a recorded forward pass.

Each gives the same numbers, to the bit where it only compares and to rounding elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from losspath.evaluation.compiler.first_layers import pair


def rewrite(graph: fx.Graph) -> None:
    """Applies every replacement that fits, in place."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in (F.dropout, torch.dropout) and not _argument(node, 2, "training", True):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is F.max_pool2d:
            _replace_pool(graph, node)
    for node in list(graph.nodes):
        if node.op == "call_function":
            _write_in_place(node)


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _replace_pool(graph: fx.Graph, node: fx.Node) -> None:
    """Max-pooling without overlap as the maximum of strided slices, and before a monotone function.

    torch's kernel walks windows one by one; slices are compared a vector at a time. And the maximum
    of a function that never falls is the function of the maximum, on a quarter of the numbers.
    """
    size = pair(_argument(node, 1, "kernel_size", None))
    stride = pair(_argument(node, 2, "stride", None) or size)
    rest = [
        pair(_argument(node, 3, "padding", 0)) == (0, 0),
        pair(_argument(node, 4, "dilation", 1)) == (1, 1),
        not _argument(node, 5, "ceil_mode", False),
        not _argument(node, 6, "return_indices", False),
    ]
    if size != stride or not all(rest) or max(size) > 4:
        return
    before: Any = node.args[0]
    monotone = isinstance(before, fx.Node) and len(before.users) == 1 and _is_monotone(before)
    source = before.args[0] if monotone else before
    with graph.inserting_before(node):
        result: Any = graph.call_function(max_of_slices, (source, size))
        if monotone:
            rest_of_call = (result, *before.args[1:])
            result = graph.call_function(before.target, rest_of_call, dict(before.kwargs))
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    if monotone:
        graph.erase_node(before)


def _is_monotone(node: fx.Node) -> bool:
    if node.target in (F.relu, torch.relu, torch.Tensor.relu, F.relu6):
        return True
    return node.target is F.leaky_relu and _argument(node, 1, "negative_slope", 0.01) >= 0


def max_of_slices(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Max-pooling (…, H, W) → (…, H//h, W//w) with windows (h, w) that do not overlap."""
    (height, width), (rows, columns) = size, values.shape[-2:]
    down, across = rows // height * height, columns // width * width
    highest = reduce(torch.maximum, [values[..., i:down:height, :across] for i in range(height)])
    return reduce(torch.maximum, [highest[..., i::width] for i in range(width)])


# Functions whose result is a tensor of its own, which the next call may write over.
_FRESH: set[Callable[..., Any]] = {
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    F.linear,
    max_of_slices,
    F.batch_norm,
    F.layer_norm,
}


def _write_in_place(node: fx.Node) -> None:
    if node.target not in (F.relu, torch.relu, torch.Tensor.relu):
        return
    source = node.args[0]
    if isinstance(source, fx.Node) and source.target in _FRESH and len(source.users) == 1:
        node.target = torch.relu_
        node.args, node.kwargs = (source,), {}
