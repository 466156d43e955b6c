"""Small models of every kind, with data, and the plain loop that their losses must equal."""

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Case:
    model: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor
    loss_fn: Any


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(3, 5, num_layers=2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.layer(self.words(x)).mean(dim=1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.words.weight

    def forward(self, x):
        return self.out(torch.tanh(self.mix(self.words(x).mean(dim=1))))


class Complex(nn.Module):
    """The complex tensor begins at an odd number of a row, behind a bias of three."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3))
        self.weight = nn.Parameter(torch.randn(6, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.weight).abs() + self.bias


class Counter(nn.Module):
    """Counts its calls in evaluation mode too, in one buffer in place and in one anew."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(6))

    def forward(self, x):
        self.calls += 1
        self.sums = self.sums + x.sum(dim=0)
        return self.inner(x)


def mlp(dropout=0.5):
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(dropout), nn.Linear(9, 4))


def convolutional():
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Dropout2d(0.4),
        nn.Flatten(),
        nn.Linear(80, 4),
    )
    for _ in range(3):  # running statistics that differ from those of any batch
        model(torch.randn(8, 2, 4, 4) * 2 + 1)
    return model


def widened_cross_entropy(outputs, targets):
    return F.cross_entropy(outputs.float(), targets)


def sample_case(kind, count=23):
    """A model with data, the same at every call."""
    torch.manual_seed(7)
    numbers, images = torch.randn(count, 6), torch.randn(count, 2, 4, 4)
    words, series = torch.randint(11, (count, 5)), torch.randn(count, 7, 3)
    four, eleven = torch.randint(4, (count,)), torch.randint(11, (count,))
    loss = F.cross_entropy
    cases = {
        "mlp": lambda: Case(mlp(), numbers, four, loss),
        "conv": lambda: Case(convolutional(), images, four, loss),
        "attention": lambda: Case(Attention(), words, four, loss),
        "lstm": lambda: Case(Recurrent(nn.LSTM), series, four, loss),
        "gru": lambda: Case(Recurrent(nn.GRU), series, four, loss),
        "tied": lambda: Case(Tied(), words, eleven, loss),
        "float64": lambda: Case(mlp().double(), numbers.double(), four, loss),
        "bfloat16": lambda: Case(mlp().bfloat16(), numbers.bfloat16(), four, widened_cross_entropy),
        "float16": lambda: Case(mlp().half(), numbers.half(), four, widened_cross_entropy),
        "complex": lambda: Case(Complex(), numbers, four % 3, loss),
        "counter": lambda: Case(Counter(), numbers, four, loss),
    }
    return cases[kind]()


KINDS = (
    "mlp",
    "conv",
    "attention",
    "lstm",
    "gru",
    "tied",
    "float64",
    "bfloat16",
    "float16",
    "complex",
    "counter",
)


def flat(model):
    """The parameters as one vector, by a loop of its own."""
    parts = [
        (torch.view_as_real(p) if p.is_complex() else p).detach().reshape(-1).double()
        for p in model.parameters()
    ]
    return torch.cat(parts).numpy()


def loaded(model, vector):
    """A copy of the model with a vector of parameters, in evaluation mode."""
    model = copy.deepcopy(model)
    if is_half(model):  # evaluated in single precision
        model = model.float()
    offset = 0
    with torch.no_grad():
        for parameter in model.parameters():
            real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            values = torch.as_tensor(np.array(vector))[offset : offset + real.numel()]
            real.copy_(values.reshape(real.shape))
            offset += real.numel()
    assert offset == len(vector)
    return model.eval()


def is_half(model):
    return any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())


def plain_loop(case, vector):
    """Loss and accuracy over all data at once."""
    inputs = case.inputs.float() if is_half(case.model) else case.inputs
    with torch.no_grad():
        outputs = loaded(case.model, vector)(inputs)
        loss = float(case.loss_fn(outputs, case.targets))
    right = [int(row.argmax()) == int(target) for row, target in zip(outputs, case.targets)]  # noqa: B905
    return loss, sum(right) / len(right)


def moved(case, scale=0.3):
    """A vector beside the model's own parameters."""
    vector = flat(case.model)
    return vector + scale * np.random.default_rng(3).standard_normal(len(vector))


def random_states():
    legacy = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().tolist(),
        [*legacy[:1], legacy[1].tolist(), *legacy[2:]],
        (random.getstate()),
    )


def snapshot(model):
    """Everything of a model that an evaluation must leave as it was, in comparable values."""

    def content(tensor):
        if tensor is None:
            return None
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        return str(tensor.dtype), real.detach().double().numpy().tobytes()

    return {
        "parameters": [
            (name, id(p), p.data_ptr(), p.requires_grad, p._version, content(p), content(p.grad))
            for name, p in model.named_parameters(remove_duplicate=False)
        ],
        "buffers": [(name, id(b), b._version, content(b)) for name, b in model.named_buffers()],
        "modes": [(name, module.training) for name, module in model.named_modules()],
    }
