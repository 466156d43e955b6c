"""What of a forward pass is done once for a batch, and what again for every parameter vector."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from losspath.evaluation.compiler.first_layers import CONVOLUTIONS, FirstLayer
from losspath.evaluation.compiler.rewrites import max_of_slices
from losspath.evaluation.compiler.tape import Tape


@dataclass(frozen=True)
class Plan:
    """A forward pass in two parts.

    Attributes:
        shared: what is the same at every point: (inputs, *parameters, *constants) → values.
        shared_parameters: names of the parameters that it takes; they are the same at every point.
        shared_constants: the constants that it takes.
        first_layers: layers that see the same input at every point; their inputs are the first of
            the shared values.
        point: what is left: (*shared values after those inputs, *results of first layers,
            *parameters, *constants) → outputs.
        point_parameters: names of the parameters that it takes.
        point_constants: the constants that it takes.
        calls: how many calls are made once a batch, and how many at every point.
        signature: the forward pass as text.
    """

    shared: Callable[..., tuple[Any, ...]]
    shared_parameters: tuple[str, ...]
    shared_constants: tuple[torch.Tensor, ...]
    first_layers: tuple[FirstLayer, ...]
    point: Callable[..., Any]
    point_parameters: tuple[str, ...]
    point_constants: tuple[torch.Tensor, ...]
    calls: tuple[int, int]
    signature: str

    def describe(self) -> list[str]:
        """What is shared, one line each."""
        lines = [f"  {self.calls[0]} calls once a batch, {self.calls[1]} at every point"]
        first_layers = ", ".join(layer.weight for layer in self.first_layers)
        return lines + ([f"  same input at every point: {first_layers}"] if first_layers else [])


def make_plan(
    tape: Tape,
    changing: Collection[str],
    with_first_layers: bool = True,
    sides: Collection[str] = (),
) -> Plan:
    """Splits a recorded forward pass.

    Args:
        tape: the pass.
        changing: names of the parameters and side tensors that differ between points.
        with_first_layers: treat layers that see the same input at every point apart.
        sides: names of side tensors, of which no such layer is made: they are not in the vectors.
    """
    fixed = _fixed_nodes(tape, changing)
    nodes = [node for node in tape.graph.nodes if node.op == "call_function"]
    first_layers = {
        node: layer
        for node in nodes
        if with_first_layers
        and node not in fixed
        and (layer := _first_layer(node, fixed, tape, changing))
        and not {layer.weight, layer.bias} & {*sides}
    }
    pooled = _windowed(first_layers)
    output = next(node for node in tape.graph.nodes if node.op == "output")
    left = [node for node in nodes if node not in fixed and node not in first_layers]
    needed: dict[fx.Node, None] = {}
    for node in (*left, output):
        needed.update(dict.fromkeys(node.all_input_nodes))
    held = {**tape.parameters, **tape.constants}
    carried = [n for n in needed if n in fixed and n not in held]
    inputs = [node.args[0] for node in first_layers]
    shared = _Part(tape)
    shared.copy([node for node in nodes if node in fixed])
    shared.end(tuple(inputs + carried), first=[tape.input])
    point = _Part(tape)
    point.know([*carried, *first_layers])
    point.copy(left, pooled)
    point.end(output.args[0], first=[*carried, *first_layers])
    return Plan(
        shared=shared.function,
        shared_parameters=shared.parameters,
        shared_constants=shared.constants,
        first_layers=tuple(first_layers.values()),
        point=point.function,
        point_parameters=point.parameters,
        point_constants=point.constants,
        calls=(sum(node in fixed for node in nodes), len(left)),
        signature=str(tape.graph),
    )


def _fixed_nodes(tape: Tape, changing: Collection[str]) -> set[fx.Node]:
    """Nodes that do not depend on a changing parameter."""
    fixed: set[fx.Node] = set()
    for node in tape.graph.nodes:
        if node.op == "placeholder":
            if tape.parameters.get(node, "") not in changing:
                fixed.add(node)
        elif node.op == "call_function" and all(n in fixed for n in node.all_input_nodes):
            fixed.add(node)
    return fixed


def _first_layer(
    node: fx.Node, fixed: set[fx.Node], tape: Tape, changing: Collection[str]
) -> FirstLayer | None:
    function: Any = node.target
    convolution = function in CONVOLUTIONS
    if not (convolution or node.target in (F.linear, F.embedding)):
        return None
    if node.target is F.embedding and node.kwargs.get("max_norm") is not None:
        return None
    names = ["input", "weight"] if node.target is F.embedding else ["input", "weight", "bias"]
    if any(name in node.kwargs for name in names[:2]) or len(node.args) < 2:
        return None
    inputs: Any = node.args[0]
    weight: Any = node.args[1]
    rest = tuple(node.args[len(names) :])
    options = dict(node.kwargs)
    bias: Any = options.pop("bias", node.args[2] if len(node.args) > 2 else None)
    if node.target is F.embedding:
        bias = None
    if not isinstance(inputs, fx.Node) or inputs not in fixed:
        return None
    if tape.parameters.get(weight, "") not in changing:
        return None
    if bias is not None and bias not in tape.parameters:
        return None
    return FirstLayer(
        function=function,
        weight=tape.parameters[weight],
        bias=None if bias is None else tape.parameters[bias],
        rest=rest,
        options=options,
    )


def _windowed(first_layers: dict[fx.Node, FirstLayer]) -> set[fx.Node]:
    """Gives first layers the window of the pooling that alone sees their results; the poolings."""
    pooled: set[fx.Node] = set()
    for node, layer in list(first_layers.items()):
        users = list(node.users)
        if len(users) == 1 and users[0].target is max_of_slices:
            window: Any = users[0].args[1]
            windowed = layer.with_window(window)
            if windowed is not None:
                first_layers[node] = windowed
                pooled.add(users[0])
    return pooled


class _Part:
    """A graph made of some nodes of a tape; the parameters and constants it needs are found."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._graph = fx.Graph()
        self._copies: dict[fx.Node, fx.Node] = {}
        self._parameters: dict[fx.Node, str] = {}
        self._constants: dict[fx.Node, torch.Tensor] = {}

    def know(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            self._copies[node] = self._placeholder(node)

    def _placeholder(self, node: fx.Node) -> fx.Node:
        made = self._graph.placeholder(node.name)
        # Its name is made unique, its target is not, and code that is generated assigns one to the
        # other: an argument that had a name of this kind would be overwritten.
        made.target = made.name
        return made

    def copy(self, nodes: list[fx.Node], pooled: Collection[fx.Node] = ()) -> None:
        for node in nodes:
            if node in pooled:
                # What it pools comes by the windows' positions, along the first axis.
                source: Any = node.args[0]
                pooling = (self._copied(source), 0)
                self._copies[node] = self._graph.call_function(torch.amax, pooling)
            else:
                self._copies[node] = self._graph.node_copy(node, self._copied)

    def _copied(self, node: fx.Node) -> fx.Node:
        if node not in self._copies:
            first = next(iter(self._graph.nodes), None)
            with self._graph.inserting_before(first):
                copy = self._placeholder(node)
            self._copies[node] = copy
            if node in self._tape.parameters:
                self._parameters[copy] = self._tape.parameters[node]
            elif node in self._tape.constants:
                self._constants[copy] = self._tape.constants[node]
        return self._copies[node]

    def end(self, result: Any, first: list[fx.Node]) -> None:
        self._graph.output(fx.node.map_arg(result, self._copied))
        given = [self._copied(node) for node in first]
        # Placeholders in the order of the arguments: given, parameters, constants.
        order = [*given, *self._parameters, *self._constants]
        for node in reversed(order):
            top = next(iter(self._graph.nodes))
            if node is not top:
                top.prepend(node)
        self._graph.lint()
        self.function = fx.GraphModule(torch.nn.Module(), self._graph).forward
        self.parameters = tuple(self._parameters.values())
        self.constants = tuple(self._constants.values())
