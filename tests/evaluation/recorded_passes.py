"""Small forward passes, and what their recordings give."""

import copy
import dataclasses

import torch
from torch import nn

from losspath.evaluation.compiler.plan import make_plan
from losspath.evaluation.compiler.rewrites import rewrite
from losspath.evaluation.compiler.tape import record
from losspath.parameters import named_parameters


def of(forward, **held):
    """A module of two small layers whose forward pass is a function (module, x)."""
    module = Small()
    for name, value in held.items():
        if isinstance(value, nn.Buffer | nn.Module):
            setattr(module, name, value)
        else:
            module.__dict__[name] = value
    module.function = forward
    return module.eval()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        return self.function(self, x)


def numbers(seed=0, count=5):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def words(seed=0, count=5):
    return torch.randint(11, (count, 6), generator=torch.Generator().manual_seed(seed))


def moved(model, seed=9):
    """A copy with other parameters."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def replay(tape, model, inputs):
    """What the recorded calls give for a model's parameters and a batch."""
    module = torch.fx.GraphModule(nn.Module(), tape.graph)
    parameters = dict(named_parameters(model))
    arguments = []
    for node in tape.graph.nodes:
        if node is tape.input:
            arguments.append(inputs)
        elif node.op == "placeholder" and node in tape.parameters:
            arguments.append(parameters[tape.parameters[node]])
        elif node.op == "placeholder":
            arguments.append(tape.constants[node])
    with torch.no_grad():
        return module(*arguments)


def planned(tape, model, inputs):
    """The same through a plan in which all parameters change, twice, as points share its parts."""
    parameters = dict(named_parameters(model))
    rewrite(tape.graph)
    plan = make_plan(tape, set(parameters), with_first_layers=False)
    with torch.no_grad():
        fixed = [parameters[name] for name in plan.shared_parameters]
        carried = plan.shared(inputs, *fixed, *plan.shared_constants)
        given = [parameters[name] for name in plan.point_parameters]
        plan.point(*carried, *given, *plan.point_constants)
        return plan.point(*carried, *given, *plan.point_constants)


def assert_close(found, expected):
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(expected) and not isinstance(expected, dict):
        found, expected = vars(found), vars(expected)
    torch.testing.assert_close(found, expected, equal_nan=True)


def assert_replays(model, first, *others):
    """Recorded once, it gives what the module gives for other parameters and other data."""
    tape = record(model, first)
    other = moved(model)
    for inputs in (first, *others):
        with torch.no_grad():
            expected = other(inputs.clone())
            kept = copy.deepcopy(inputs)
        assert_close(replay(tape, other, inputs), expected)
        assert torch.equal(inputs, kept)
    tape = record(model, first)
    assert_close(planned(tape, other, others[-1]), expected)
    return tape


def names_of(tape):
    return [getattr(node.target, "__name__", "") for node in tape.graph.nodes]


def experts(m, x):
    top, out = m.inner(x)[:, :4].argmax(1), torch.zeros_like(x)
    for e in range(4):
        i = torch.where(top == e)[0]
        if i.shape[0]:
            out = out.index_add(0, i, x[i] * (e + 1))
    return m.head(out)
