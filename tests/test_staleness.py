"""What was computed never meets another meaning: losses, models, data and buffers that changed."""

import functools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, compute_surface, interpolate, measure_dynamics
from losspath.errors import StoreError
from losspath.evaluation.settings import settings_of_model
from losspath.files import digest_of

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True).sin()


class Huber(nn.Module):
    """A loss object with a constant that can be changed."""

    def __init__(self):
        super().__init__()
        self.beta = 1.0

    def forward(self, o, t):
        return F.smooth_l1_loss(o, t, beta=self.beta)


class Scaled(nn.Linear):
    """A model with an attribute that its forward pass reads, for large inputs alone."""

    scale = 1.0

    def forward(self, x):
        out = super().forward(x)
        return torch.where(x[:, :1] > 1.5, out * self.scale, out)


def change(what, model, loss):
    if what == "loss":
        loss.beta = 10.0
    elif what == "model":
        model[0].scale = 3.0
    elif what == "buffer":
        model[1].running_mean += 1
    else:
        assert what == "hook"
        model.register_forward_hook(lambda module, args, out: out + 1)


def setting():
    torch.manual_seed(0)
    model, loss = nn.Sequential(Scaled(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), Huber()
    count = sum(p.numel() for p in model.parameters())
    path = np.cumsum(np.random.default_rng(0).standard_normal((6, count)), axis=0) * 0.2
    return model, loss, path.astype(np.float32)


USES = {
    "surface": lambda path, o, file: compute_surface(path, o, "pca", 4, states=3, checkpoint=file),
    "line": lambda path, o, file: interpolate(path, o, checkpoint=file),
    "dynamics": lambda path, o, file: measure_dynamics(path, o, 3, checkpoint=file),
}


def numbers(result):
    found = [result.loss]
    if hasattr(result, "states"):
        found.append(result.states.loss)
    return [each.tolist() for each in found]


@pytest.mark.mostly_slow(6)
@pytest.mark.parametrize("what", ["loss", "model", "buffer", "hook"])
@pytest.mark.parametrize("use", USES)
def test_what_changes_after_a_checkpoint_is_not_mixed_with_it(tmp_path, what, use):
    model, loss, path = setting()
    objective = Objective(model, X, Y, loss)
    before = numbers(USES[use](path, objective, tmp_path / "points"))
    assert numbers(USES[use](path, objective, tmp_path / "points")) == before
    change(what, model, loss)
    fresh = numbers(USES[use](path, objective, None))
    assert fresh != before
    assert fresh == numbers(USES[use](path, Objective(model, X, Y, loss), None))
    try:
        again = numbers(USES[use](path, objective, tmp_path / "points"))
    except StoreError as refusal:
        assert "another computation" in str(refusal)  # noqa: PT017
    else:
        assert again == fresh


# -- what no state that is tried shows ------------------------------------------------------------

LOW, HIGH = 1e6, 1e9  # caps that nothing comes near to
CAP = LOW
SET = SimpleNamespace(cap=LOW)


def capped(o, t, cap):
    return F.mse_loss(o, t, reduction="none").clamp(max=cap).mean()


def helper(o, t, cap=LOW):
    return capped(o, t, cap)


def other_helper(o, t, cap=HIGH):
    return capped(o, t, cap)


def reads_a_constant(o, t):
    return capped(o, t, CAP)


def reads_a_table(o, t):
    return capped(o, t, SET.cap)


def calls_a_helper(o, t):
    return helper(o, t)


def edited(o, t):
    return capped(o, t, LOW)


def edited_later(o, t):
    return capped(o, t, LOW + 1)


class Cfg:
    def __init__(self):
        self.cap = LOW


class Nested:
    def __init__(self):
        self.cfg, self.table, self.tables = Cfg(), {"cap": LOW}, [{"cap": LOW}]

    def __call__(self, o, t):
        return capped(o, t, min(self.cfg.cap, self.table["cap"], self.tables[0]["cap"]))


class OfClass:
    cap = LOW

    def __call__(self, o, t):
        return self.of(o, t)

    def of(self, o, t):
        return capped(o, t, self.limit)

    @property
    def limit(self):
        return self.cap


class Submodule(nn.Module):
    def __init__(self):
        super().__init__()
        self.clip, self.weights = nn.Hardtanh(-1e9, LOW), torch.ones(1)

    def forward(self, o, t):
        return self.clip(self.weights * F.mse_loss(o, t, reduction="none")).mean()


class Capped(nn.Module):
    """A model with all kinds of caps."""

    klass = LOW

    def __init__(self):
        super().__init__()
        self.body, self.clip = nn.Linear(5, 1), nn.Hardtanh(-LOW, LOW)
        self.cfg, self.table, self.whole = Cfg(), {"cap": LOW}, int(LOW)
        self.act = F.relu6

    def forward(self, x):
        out = self.clip(self.body(x)) + 0 * self.act(x[:, :1] * 0)
        cap = min(self.cfg.cap, self.table["cap"], self.whole, self.klass)
        return out.clamp(-cap, cap)


def closing_over(cap):
    return lambda o, t: capped(o, t, cap)


def swap_global(name, value):
    return lambda patch, model, loss: patch.setitem(globals(), name, value)


LOSSES = {
    "constant of the script": (lambda: reads_a_constant, swap_global("CAP", HIGH)),
    "table of the script": (
        lambda: reads_a_table,
        lambda patch, model, loss: patch.setattr(SET, "cap", HIGH),
    ),
    "function that it calls": (lambda: calls_a_helper, swap_global("helper", other_helper)),
    "its own code": (
        lambda: edited,
        lambda patch, model, loss: patch.setattr(loss, "__code__", edited_later.__code__),
    ),
    "object in it": (Nested, lambda patch, model, loss: setattr(loss.cfg, "cap", HIGH)),
    "dict in it": (Nested, lambda patch, model, loss: loss.table.update(cap=HIGH)),
    "dict in a list": (Nested, lambda patch, model, loss: loss.tables[0].update(cap=HIGH)),
    "its class": (OfClass, lambda patch, model, loss: patch.setattr(OfClass, "cap", HIGH)),
    "a property": (
        OfClass,
        lambda patch, model, loss: patch.setattr(OfClass, "limit", property(lambda self: HIGH)),
    ),
    "submodule": (Submodule, lambda patch, model, loss: setattr(loss.clip, "max_val", HIGH)),
    "plain tensor": (Submodule, lambda patch, model, loss: loss.weights.add_(1e-6)),
    "closure": (
        lambda: closing_over(LOW),
        lambda patch, model, loss: setattr(loss.__closure__[0], "cell_contents", HIGH),
    ),
    "argument": (
        lambda: functools.partial(capped, cap=LOW),
        lambda patch, model, loss: loss.keywords.update(cap=HIGH),
    ),
    "a method's object": (
        lambda: Nested().__call__,
        lambda patch, model, loss: setattr(loss.__self__.cfg, "cap", HIGH),
    ),
}
MODELS = {
    "object in it": lambda patch, model: setattr(model.cfg, "cap", HIGH),
    "dict in it": lambda patch, model: model.table.update(cap=HIGH),
    "whole number": lambda patch, model: setattr(model, "whole", int(HIGH)),
    "its class": lambda patch, model: patch.setattr(Capped, "klass", HIGH),
    "torch's module": lambda patch, model: setattr(model.clip, "max_val", HIGH),
    "torch's function": lambda patch, model: setattr(model, "act", F.relu),
    "another module": lambda patch, model: setattr(model, "clip", nn.Softsign()),
}


def key_of(objective):
    size = objective.parameter_count
    return digest_of(*objective.fingerprint(np.linspace(-1, 1, 2 * size).reshape(2, size)))


@pytest.mark.parametrize("what", LOSSES)
def test_a_change_of_the_loss_that_no_value_shows_gives_another_key(monkeypatch, what):
    make, change_it = LOSSES[what]
    loss = make()
    torch.manual_seed(0)
    objective = Objective(nn.Linear(5, 1), X, Y, loss, name="loss")
    before = key_of(objective)
    objective(np.zeros(6))
    assert key_of(objective) == before
    change_it(monkeypatch, objective.model, loss)
    assert key_of(objective) != before


@pytest.mark.parametrize("what", MODELS)
def test_a_change_of_the_model_that_no_value_shows_gives_another_key(monkeypatch, what):
    torch.manual_seed(0)
    model = Capped()
    objective = Objective(model, X * 1e-3, Y, F.mse_loss)
    before = key_of(objective)
    objective(np.zeros(6))
    assert key_of(objective) == before
    MODELS[what](monkeypatch, model)
    assert key_of(objective) != before


SCRIPT = """
import os, sys, time, types, torch, torch.nn.functional as F
from torch import nn
from losspath import Objective
sys.path.insert(0, TESTS)
from test_staleness import X, Y, key_of

ARGS = types.SimpleNamespace(rate=0.1, begun=time.time(), place=object())
KINDS = {"mean", "sum", "none", "other"}
CALLS = 0

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.begun, self.marks = nn.Linear(5, 1), time.time(), {object(), os.getpid()}
        self.calls, self.seen, self.last, self.name = 0, {}, torch.zeros(1), repr(object())
        self.kinds = {"a", "b", "c"}
        self.register_forward_hook(lambda module, args, out: out + 0 * len(module.kinds))

    def forward(self, x):
        self.calls += 1
        self.last = x.mean()
        self.name, self.marks
        return self.body(x)

class Loss:
    def __init__(self):
        self.begun, self.calls, self.log, self.cache, self.last = time.time(), 0, [], {}, None

    def __call__(self, o, t):
        global CALLS
        CALLS += 1
        self.calls += 1
        value = F.mse_loss(o, t, reduction="mean" if "mean" in KINDS else "sum") * ARGS.rate
        self.last = float(value)
        self.log.append(self.last)
        self.cache.setdefault(id(o), self.last)
        self.cache[len(o)] = self.last
        assert ARGS.place is not None and self.calls in {self.calls, "a", "b"}
        return value

torch.manual_seed(0)
model, loss = Model(), Loss()
objective = Objective(model, X, Y, loss, name="loss")
keys = [key_of(objective)]
objective(objective_at := [0.1] * 6)
keys += [key_of(objective), key_of(objective)]
model(X)
keys.append(key_of(objective))
print(len(set(keys)), keys[0])
"""


@pytest.mark.slow
def test_a_script_that_is_run_again_has_the_same_keys(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"TESTS = {str(Path(__file__).parent)!r}\n{SCRIPT}")
    found = set()
    for seed in ("1", "2", "random"):
        ran = subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        found.add(ran.stdout)
    assert len(found) == 1
    assert found.pop().startswith("1 ")


def test_settings_are_read_quickly():
    layers = [nn.TransformerEncoderLayer(32, 2, 64) for _ in range(4)]
    model = nn.Sequential(*layers, Capped())
    settings_of_model(model)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        settings_of_model(model)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.02  # of 2 ms on a machine of 2026
