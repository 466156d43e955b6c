"""Small random modules out of a grammar of layers, random data and losses.

Everything is made by a `Problem` anew and the same at every call, so that what a model should give
is computed on one that the package has never seen.
"""

import contextlib
import random
import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from losspath import Objective

WIDTH, CLASSES = 6, 3


class Of(nn.Module):
    """A function (module, x) with what it holds: modules, parameters, buffers, and anything."""

    def __init__(self, function, **held):
        super().__init__()
        self.function = function
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def linear(**options):
    return nn.Linear(WIDTH, WIDTH, **options)


def drawn(*shape):
    return nn.Parameter(torch.randn(*shape) / 2)


# -- layers of any shape, over the last axis -------------------------------------------------------


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(linear())


def tied():
    first, second = linear(), linear(bias=False)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def tied_by_transposing():
    return Of(lambda m, x: F.linear(torch.tanh(m.inner(x)), m.inner.weight.t()), inner=linear())


def reached_by_two_names():
    inner = linear()
    return Of(lambda m, x: m.alias(torch.tanh(m.inner(x))), inner=inner, alias=nn.Sequential(inner))


def experts(m, x):
    """The best expert of each sample; those without samples are skipped."""
    flat = x.reshape(-1, WIDTH)
    best, out = m.gate(flat).argmax(1), torch.zeros_like(flat)
    for number, expert in enumerate(m.experts):
        chosen = torch.where(best == number)[0]
        if len(chosen):
            out = out.index_add(0, chosen, expert(flat[chosen]))
    return out.view(x.shape) + x


def experts_by_masks(m, x):
    """The same by boolean masks, written into a tensor."""
    best, out = m.gate(x).argmax(-1), torch.zeros_like(x)
    for number, expert in enumerate(m.experts):
        if (best == number).any():
            out[best == number] = expert(x[best == number])
    return out


def mixture(function):
    made = nn.ModuleList(linear() for _ in range(3))
    return Of(function, gate=nn.Linear(WIDTH, 3, bias=False), experts=made)


def until_small(m, x):
    """As many steps as the slowest sample needs; others stay as they are."""
    x = m.inner(x)
    for _ in range(6):
        active = x.abs().amax(-1, keepdim=True) > 1
        if not active.any():
            break
        x = torch.where(active, x * m.share, x)
    return x


def in_place(m, x):
    hidden = m.inner(x)
    hidden += x
    hidden.mul_(m.scale).clamp_(-2, 2)
    return F.leaky_relu_(hidden, 0.1)


def written_slices(m, x):
    hidden = m.inner(x)
    hidden[..., :2] = hidden[..., 2:4] * 0.5
    hidden[..., -1].add_(1)
    hidden[hidden > 1] = 1.0
    return hidden


def writes_into_its_input(m, x):
    x.mul_(0.5)
    x[..., 0] = 0.25
    return m.inner(x)


def views(m, x):
    one, two, three = m.inner(x).chunk(3, dim=-1)
    left, *rest = torch.stack([one.flip(-1), two, three], dim=-1).unbind(-1)
    return torch.cat([left, *rest], dim=-1).roll(1, -1) * x.narrow(-1, 0, 1).expand_as(x)


def a_view_written(m, x):
    hidden = m.inner(x)
    hidden.transpose(0, -1)[1].fill_(0.3)
    return hidden.tanh()


def sorted_by_size(m, x):
    values, order = m.inner(x).sort(dim=-1)
    return values + torch.gather(x, -1, order) + values.topk(1, dim=-1)[0]


def words(m, x):
    places = (x * 2).long().clamp(-4, 4) + 4
    return m.words(places).mean(-2)


def permuted(m, x):
    return m.inner((x * m.mask)[..., m.order])


def counting(m, x):
    m.calls += 1
    m.seen = m.seen + x.detach().sum()
    return m.inner(x)


def with_table(m, x):
    """A table that is made in the first pass, of the size that is needed."""
    if m.table is None or m.table.shape[-1] < x.shape[-1]:
        m.table = torch.arange(x.shape[-1]).cos()
    return m.inner(x * m.table)


def lazily_buffered(m, x):
    if m.angles.numel() != x.shape[-1]:
        m.angles = torch.arange(x.shape[-1]) * 0.3
    return m.inner(x) + m.angles.sin()


def changing_hooks(kind):
    layer = linear()
    if kind == "outputs":
        layer.register_forward_hook(lambda module, args, out: out * 0.5 + args[0])
    elif kind == "outputs in place":
        layer.register_forward_hook(lambda module, args, out: out.mul_(0.5))
    elif kind == "inputs":
        layer.register_forward_pre_hook(lambda module, args: (args[0].tanh(),))
    elif kind == "weight":  # what the layer computes with is made before each pass
        layer.register_forward_pre_hook(_soften)
    else:
        layer.register_full_backward_hook(lambda module, given, got: None)
        layer.register_forward_hook(_keep)
    return layer


def _soften(module, args):
    module.__dict__["soft"] = module.weight.tanh()


def _keep(module, args, out):
    module.kept = out.detach()


class Merging(nn.Module):
    """Adds its adapter to the weight in evaluation mode, and takes it out in training."""

    def __init__(self):
        super().__init__()
        self.inner = linear()
        self.inner.weight.requires_grad_(False)
        self.a, self.b = drawn(2, WIDTH), drawn(WIDTH, 2)
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.inner.weight.data += (-1 if mode else 1) * (self.b @ self.a).detach()
            self.merged = not mode
        return self

    def forward(self, x):
        out = self.inner(x)
        return out if self.merged else out + F.linear(F.linear(x, self.a), self.b)


class Gear(nn.Module):
    """Its `train` sets more than a flag."""

    def __init__(self):
        super().__init__()
        self.inner, self.gear = linear(), 1.0

    def train(self, mode=True):
        self.gear = 1.0 if mode else 0.5
        return super().train(mode)

    def forward(self, x):
        return self.inner(x) * self.gear


class Functional(nn.Module):
    """Calls its own part with other parameters, as hypernetworks do."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = linear(), drawn(WIDTH)

    def forward(self, x):
        tensors = {"weight": self.inner.weight * self.scale, "bias": self.scale}
        return torch.func.functional_call(self.inner, tensors, (x,))


def checkpointed(m, x):
    return checkpoint(m.inner, x, use_reentrant=False)


def vmapped(m, x):
    return torch.vmap(lambda row: m.inner(row))(x)


def without_gradients(m, x):
    with torch.no_grad():
        mean = x.mean(-1, keepdim=True)
    return m.inner(x - mean)


class Teacher(nn.Module):
    """A frozen copy follows the trained layer, in every mode; what it gives is not used."""

    def __init__(self):
        super().__init__()
        self.inner, self.slow = linear(), linear().requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.inner.parameters(), strict=True):
                slow.data.mul_(0.9).add_(fast.data, alpha=0.1)
        return self.inner(x)


class Closing(nn.Module):
    """Functions of its own that close over it, which no copy of it takes along."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.scale = linear(), drawn(WIDTH)
        self.register_buffer("shift", torch.randn(WIDTH))
        if kind == "function":
            self.function = lambda x: self.inner(x) * self.scale + self.shift
        elif kind == "hook":
            self.inner.register_forward_hook(lambda m, args, out: out * self.scale + self.shift)
            self.function = nn.Identity()
        elif kind == "method":
            self.function = self.shifted
        else:  # the layer's forward is replaced, as libraries do that wrap it
            before = self.inner.forward
            self.inner.forward = lambda x: before(x).tanh() * self.scale
            self.function = nn.Identity()

    def shifted(self, x):
        return x * self.scale + self.shift

    def forward(self, x):
        return self.function(self.inner(x))


def remembering(m, x):
    """Lists and tables that grow with every call, and are read for their form alone."""
    m.seen.append(x.mean())
    m.tables.setdefault(x.shape[-1], torch.arange(x.shape[-1]).cos())
    return m.inner(x * m.tables[x.shape[-1]])


def of_several_dtypes(m, x):
    spectrum = torch.fft.rfft(m.inner(x).double(), dim=-1)
    return torch.fft.irfft(spectrum * m.filter, n=x.shape[-1], dim=-1).to(x.dtype)


def cached_weights(m, x):
    with nn.utils.parametrize.cached():
        return m.inner(x) + m.inner(x.tanh())


def outer_parameters(m, x):
    return torch.einsum("...i,ij,j->...i", x, m.left @ m.left.T, m.right) + m.bias.expand_as(x)


ANY = {
    "linear": linear,
    "teacher": Teacher,
    "closing function": lambda: Closing("function"),
    "closing hook": lambda: Closing("hook"),
    "closing method": lambda: Closing("method"),
    "replaced forward": lambda: Closing("forward"),
    "remembering": lambda: Of(remembering, inner=linear(), seen=[], tables={}),
    "several dtypes": lambda: Of(of_several_dtypes, inner=linear(), filter=drawn(4)),
    "cached weights": lambda: Of(
        cached_weights, inner=nn.utils.parametrizations.weight_norm(linear())
    ),
    "parameters of its own": lambda: Of(
        outer_parameters, left=drawn(6, 2), right=drawn(6), bias=drawn(1)
    ),
    "frozen": lambda: linear().requires_grad_(False),
    "half frozen": lambda: _half_frozen(linear()),
    "tied": tied,
    "tied by transposing": tied_by_transposing,
    "two names": reached_by_two_names,
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(linear()),
    "old weight norm": old_weight_norm,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(linear()),
    "old spectral norm": lambda: nn.utils.spectral_norm(linear()),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(linear()),
    "pruned": lambda: prune.l1_unstructured(linear(), "weight", 0.4),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "RMS norm": lambda: nn.RMSNorm(WIDTH),
    "experts": lambda: mixture(experts),
    "experts by masks": lambda: mixture(experts_by_masks),
    "until small": lambda: Of(until_small, inner=linear(), share=drawn(1)),
    "in place": lambda: Of(in_place, inner=linear(), scale=drawn(WIDTH)),
    "written slices": lambda: Of(written_slices, inner=linear()),
    "writes into its input": lambda: Of(writes_into_its_input, inner=linear()),
    "views": lambda: Of(views, inner=linear()),
    "a view written": lambda: Of(a_view_written, inner=linear()),
    "sorted": lambda: Of(sorted_by_size, inner=linear()),
    "words": lambda: Of(words, words=nn.Embedding(9, WIDTH)),
    "renormed words": lambda: Of(words, words=nn.Embedding(9, WIDTH, max_norm=1.0)),
    "permuted": lambda: Of(
        permuted,
        inner=linear(),
        order=nn.Buffer(torch.randperm(WIDTH)),
        mask=nn.Buffer(torch.rand(WIDTH) > 0.3),
    ),
    "counting": lambda: Of(
        counting, inner=linear(), calls=nn.Buffer(torch.tensor(0)), seen=nn.Buffer(torch.zeros(()))
    ),
    "table": lambda: Of(with_table, inner=linear(), table=None),
    "lazy buffer": lambda: Of(
        lazily_buffered, inner=linear(), angles=nn.Buffer(torch.zeros(0), persistent=False)
    ),
    "hook on outputs": lambda: changing_hooks("outputs"),
    "hook in place": lambda: changing_hooks("outputs in place"),
    "hook on inputs": lambda: changing_hooks("inputs"),
    "hook on the weight": lambda: Of(
        lambda m, x: m.inner(x) + F.linear(x, m.inner.soft), inner=changing_hooks("weight")
    ),
    "other hooks": lambda: changing_hooks("other"),
    "merging": Merging,
    "gear": Gear,
    "functional": Functional,
    "checkpointed": lambda: Of(checkpointed, inner=linear()),
    "vmapped": lambda: Of(vmapped, inner=linear()),
    "without gradients": lambda: Of(without_gradients, inner=linear()),
    "scripted": lambda: torch.jit.script(linear()),
    "dropout": lambda: nn.Dropout(0.5, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "prelu": nn.PReLU,
    "gelu": nn.GELU,
    "softmax": lambda: nn.Softmax(dim=-1),
    "gated": lambda: nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GLU(-1)),
    "list": lambda: Of(
        lambda m, x: x * m.scales[0] + m.scales[1], scales=nn.ParameterList([drawn(WIDTH)] * 2)
    ),
    "unused": lambda: Of(lambda m, x: x, unused=drawn(4)),
}


def _half_frozen(layer):
    layer.bias.requires_grad_(False)
    return layer


# -- vectors (N, 6), series (N, 5, 6) and images (N, 6, 4, 4) --------------------------------------

VECTORS = {
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "batch norm without affine": lambda: nn.BatchNorm1d(WIDTH, affine=False),
    "batch norm of sums": lambda: nn.BatchNorm1d(WIDTH, momentum=None),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "cells": lambda: Of(_cells, cell=nn.LSTMCell(WIDTH, WIDTH)),
    "bilinear": lambda: Of(lambda m, x: m.inner(x, x.tanh()), inner=nn.Bilinear(6, 6, 6)),
    "bags": lambda: Of(
        lambda m, x: m.words((x * 2).long().clamp(-4, 4) + 4), words=nn.EmbeddingBag(9, WIDTH)
    ),
}


def _cells(m, x):
    state = (torch.zeros_like(x), torch.zeros_like(x))
    for _ in range(2):
        state = m.cell(x, state)
    return state[0]


def recurrent(kind, **options):
    directions = 2 if options.get("bidirectional") else 1
    cells = kind(WIDTH, WIDTH // directions, batch_first=True, **options)
    return Of(lambda m, x: m.cells(x)[0], cells=cells)


def packed(m, x):
    lengths = 1 + (x[:, :, 0] > 0).sum(1).clamp(max=x.shape[1] - 1)
    rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, _ = nn.utils.rnn.pad_packed_sequence(m.cells(rows)[0], batch_first=True)
    return F.pad(out, (0, 0, 0, x.shape[1] - out.shape[1]))


def attention(masked, padded, weights=False):
    def forward(m, x):
        mask = m.mask if masked else None
        padding = None
        if padded:
            padding = (x[:, :, 0] > 0.5).clone()
            padding[:, 0] = False
        return m.inner(x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=weights)[0]

    mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    inner = nn.MultiheadAttention(WIDTH, 2, dropout=0.3, batch_first=True)
    return Of(forward, inner=inner, mask=nn.Buffer(mask))


def encoder(masked, **options):
    def forward(m, x):
        padding = x[:, :, 1] > 0.3
        padding[:, 0] = False
        if masked == "causal":
            causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            return m.inner(x, mask=causal, is_causal=True)
        return m.inner(x, src_key_padding_mask=padding) if masked else m.inner(x)

    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.2, batch_first=True, **options)
    return Of(forward, inner=nn.TransformerEncoder(layer, 2))


def decoder(m, x):
    return m.inner(x, x.flip(1))


def scaled_products(m, x):
    one, two, three = m.inner(x).chunk(3, -1)
    return F.scaled_dot_product_attention(one, two, three, is_causal=True)


SERIES = {
    "lstm": lambda: recurrent(nn.LSTM, num_layers=2, dropout=0.4),
    "lstm both ways": lambda: recurrent(nn.LSTM, bidirectional=True),
    "lstm projected": lambda: Of(
        lambda m, x: m.cells(x)[0], cells=nn.LSTM(WIDTH, 7, proj_size=WIDTH, batch_first=True)
    ),
    "gru": lambda: recurrent(nn.GRU),
    "rnn": lambda: recurrent(nn.RNN, nonlinearity="relu"),
    "packed": lambda: Of(packed, cells=nn.GRU(WIDTH, WIDTH, batch_first=True)),
    "encoder layer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.3, batch_first=True),
    "encoder, norm first": lambda: encoder(False, norm_first=True, activation="gelu"),
    "encoder, causal": lambda: encoder("causal"),
    "encoder, padded": lambda: encoder("padded"),
    "decoder": lambda: Of(decoder, inner=nn.TransformerDecoderLayer(6, 2, 8, batch_first=True)),
    "attention": lambda: attention(False, False, True),
    "attention, masked": lambda: attention(True, False),
    "attention, padded": lambda: attention(False, True),
    "attention, both": lambda: attention(True, True),
    "scaled products": lambda: Of(scaled_products, inner=nn.Linear(WIDTH, 3 * WIDTH)),
    "convolution": lambda: Of(
        lambda m, x: m.inner(x.transpose(1, 2)).transpose(1, 2), inner=nn.Conv1d(6, 6, 3, padding=1)
    ),
}

IMAGES = {
    "convolution": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "by groups": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=3, padding_mode="circular"),
    "frozen": lambda: nn.Conv2d(WIDTH, WIDTH, 1).requires_grad_(False),
    "transposed": lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 1)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 1)),
    "batch norm": lambda: nn.BatchNorm2d(WIDTH),
    "batch norm without statistics": lambda: nn.GroupNorm(3, WIDTH),
    "instance norm": lambda: nn.InstanceNorm2d(WIDTH, affine=True),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(6, track_running_stats=True),
    "pooled": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)),
    "averaged": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Upsample(size=4)),
    "squeezed": lambda: Of(
        lambda m, x: x * m.inner(x.mean((2, 3))).sigmoid()[:, :, None, None], inner=linear()
    ),
    "dropout of channels": lambda: nn.Dropout2d(0.5),
    "relu": lambda: nn.ReLU(inplace=True),
    "channels last": lambda: nn.Conv2d(6, 6, 3, padding=1).to(memory_format=torch.channels_last),
    "scripted": lambda: torch.jit.script(nn.Conv2d(WIDTH, WIDTH, 1)),
}

LAYERS = {"vectors": {**ANY, **VECTORS}, "series": {**ANY, **SERIES}, "images": IMAGES}
SHAPES = {"vectors": (WIDTH,), "series": (5, WIDTH), "images": (WIDTH, 4, 4)}


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x.clone())


class Network(nn.Module):
    """Layers one after the other, and a head; "again" is the layer before, once more."""

    def __init__(self, problem):
        super().__init__()
        layers = []
        for name, residual in problem.layers:
            if name == "again":
                layers += layers[-1:]
                continue
            made = LAYERS[problem.form][name]()
            layers.append(Residual(made) if residual else made)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(2).mean(2) if x.dim() == 4 else x.reshape(len(x), -1, 6).mean(1))


# -- losses ----------------------------------------------------------------------------------------


def entropy(model):
    return F.cross_entropy


def smoothed(model):
    return nn.CrossEntropyLoss(label_smoothing=0.1)


def squares(model):
    return lambda o, t: F.mse_loss(o, F.one_hot(t, CLASSES).float())


def weighted(model):
    """The mean over what is not ignored, with weights of classes."""
    weights = torch.tensor([1.0, 0.5, 0.0])
    return lambda o, t: (F.cross_entropy(o, t, weights, reduction="sum"), weights[t].sum() + 1e-9)


def penalised(model):
    def loss(o, t):
        return F.cross_entropy(o, t) + 0.01 * sum(p.pow(2).sum() for p in model.parameters())

    return loss


def penalised_by_name(model):
    """A penalty on the trained parameters alone, kept in a list when the loss was made."""
    kept = [p for n, p in model.named_parameters() if p.requires_grad and "bias" not in n]

    def loss(o, t):
        return F.cross_entropy(o, t) + 0.1 * torch.stack([p.abs().mean() for p in kept]).sum()

    return loss


def writing(model):
    """Writes into the outputs and the targets that it is given."""

    def loss(o, t):
        o -= o.amax(1, keepdim=True)
        t.clamp_(max=CLASSES - 1)
        return F.nll_loss(o.log_softmax(1), t)

    return loss


LOSSES = {
    each.__name__: each
    for each in (entropy, smoothed, squares, weighted, penalised, penalised_by_name, writing)
}


# -- problems --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What to make, as values that can be read in a failing test's message."""

    form: str
    layers: tuple
    loss: str
    order: str
    count: int
    batch_size: int
    seed: int
    training: bool
    warm: bool
    given: str = "tensor"

    def model(self):
        """The model; where it is warm it has seen data in training mode, and has gradients."""
        torch.manual_seed(self.seed)
        model = Network(self)
        with torch.no_grad():
            for parameter in model.parameters():  # norms that do something
                parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(2 if self.warm else 0):
            model.train()
            out = model(torch.randn(8, *SHAPES[self.form]) * 1.5 + 0.5)
            if out.requires_grad:
                with contextlib.suppress(RuntimeError):  # written over what autograd needs
                    out.sum().backward()
        return model.train(self.training)

    def data(self):
        generator = torch.Generator().manual_seed(self.seed + 1)
        x = torch.randn(self.count, *SHAPES[self.form], generator=generator)
        y = torch.randint(CLASSES, (self.count,), generator=generator)
        x += F.one_hot(y, CLASSES).float().repeat(1, 2).view(-1, *_beside(self.form))
        if self.order == "by kind":
            order = y.argsort(stable=True)
        elif self.order == "by size":  # those that need most are last
            order = x.flatten(1).norm(dim=1).argsort()
        else:
            order = torch.arange(self.count)
        return x[order].contiguous(), y[order].contiguous()

    def loss_fn(self, model):
        return LOSSES[self.loss](model)

    def objective(self, model, x, y, loss):
        if self.given == "batches":
            size = self.batch_size
            batches = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
            return Objective.of_batches(model, batches, lambda m, b: loss(m(b[0]), b[1]))
        inputs = {"tensor": x, "tuple": (x,), "mapping": {"x": x}}[self.given]
        return Objective(model, inputs, y, loss, batch_size=self.batch_size)

    def plain(self, vector):
        """The loss of a model that is made anew, with the vector written in, all data at once."""
        model, (x, y) = self.model(), self.data()
        model.train()
        done = 0
        for parameter in rows_of(model):
            values = torch.as_tensor(np.asarray(vector))[done : done + parameter.numel()]
            parameter.data.copy_(values.view(parameter.shape))
            done += parameter.numel()
        assert done == len(vector)
        return self._evaluated(model, x, y)

    def trained(self, steps, record=None):
        """The model after some steps of training, the same at every call.

        Args:
            steps: how many.
            record: given the model, makes what is told each step's loss.
        """
        model, (x, y) = self.model().train(), self.data()
        loss_fn = self.loss_fn(model)
        optimizer = torch.optim.SGD(rows_of(model), 0.05, momentum=0.5)
        torch.manual_seed(self.seed + 2)
        told = record(model) if record else None
        for _ in range(steps):
            result = loss_fn(model(x.clone()), y.clone())
            loss = result[0] / result[1] if isinstance(result, tuple) else result
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if told:
                told(loss)
        return model

    def after(self, steps):
        """The loss over all data of the model after some steps, in evaluation mode."""
        return self._evaluated(self.trained(steps), *self.data())

    def _evaluated(self, model, x, y):
        model.eval()
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad():
                result = self.loss_fn(model)(model(x), y)
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
        return float(result[0]) / float(result[1]) if isinstance(result, tuple) else float(result)


def _beside(form):
    return {"vectors": (WIDTH,), "series": (1, WIDTH), "images": (WIDTH, 1, 1)}[form]


def rows_of(model):
    """The parameters that a vector is of: the trainable ones, each once."""
    return [p for p in model.parameters() if p.requires_grad]


def vector_of(model):
    return torch.cat([p.detach().reshape(-1) for p in rows_of(model)]).numpy().copy()


def problems(most=4, forms=tuple(SHAPES)):
    def fits(problem):
        # It writes into its parameters, so that a penalty depends on what has been looked up.
        return "renormed words" not in dict(problem.layers) or "penal" not in problem.loss

    def layers(form):
        name = st.sampled_from([*LAYERS[form], "again"])
        return st.lists(st.tuples(name, st.booleans()), min_size=1, max_size=most)

    return st.sampled_from(forms).flatmap(
        lambda form: st.builds(
            Problem,
            form=st.just(form),
            layers=layers(form).map(tuple),
            loss=st.sampled_from(list(LOSSES)),
            order=st.sampled_from(["as drawn", "by kind", "by size"]),
            count=st.integers(2, 40),
            batch_size=st.integers(1, 50),
            seed=st.integers(0, 5),
            training=st.booleans(),
            warm=st.booleans(),
            given=st.sampled_from(["tensor", "tensor", "tuple", "mapping", "batches"]),
        ).filter(fits)
    )


# -- what must hold -------------------------------------------------------------------------------


def content(model, *data):
    """Everything that must be as it was, in values that can be compared."""

    def bytes_of(tensor):
        return None if tensor is None else (tensor.dtype, tensor.detach().cpu().numpy().tobytes())

    parameters = model.named_parameters(remove_duplicate=False)
    return {
        "parameters": [
            (n, id(p), p.data_ptr(), type(p), p.requires_grad, bytes_of(p), bytes_of(p.grad))
            for n, p in parameters
        ],
        "gradients": [id(p.grad) for p in model.parameters()],
        "buffers": [(n, id(b), b.data_ptr(), bytes_of(b)) for n, b in model.named_buffers()],
        "modes": [(n, m.training) for n, m in model.named_modules()],
        "attributes": [
            (n, name, id(value), bytes_of(value) if isinstance(value, torch.Tensor) else None)
            for n, m in model.named_modules()
            for name, value in vars(m).items()
        ],
        "data": [bytes_of(tensor) for tensor in data],
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[2]),  # noqa: NPY002
        "modes of torch": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
        ),
    }


def states_around(model, seed):
    generator = np.random.default_rng(seed)
    own = vector_of(model)
    steps = generator.standard_normal((5, len(own))) * 0.15
    return (own + np.cumsum(steps, axis=0)).astype(np.float32)
