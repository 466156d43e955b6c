"""Surfaces, lines and steps of many models by every method, to be compared with kept numbers.

    python tests/baseline/baseline_cases.py          says which numbers are not as kept
    python tests/baseline/baseline_cases.py --write  keeps those of now

Weights, states and data come from NumPy's generators and no training, so that another machine has
the same ones to the last bit.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import losspath
from losspath import methods
from losspath.thesis.as_drawn import AveragedAsPrinted, PCAAsDrawn, SampledPCAAsDrawn

KEPT = Path(__file__).parent / "kept.npz"
SAMPLES, STATES, RESOLUTION = 90, 14, 5


class Above(methods.SampledPCA):
    """A side that the method had once."""

    def inside(self, points, state, path):
        return points[:, 1] >= state[:, 1]


METHODS = {
    "pca": methods.PCA(),
    "pca as published": PCAAsDrawn(),
    "sampled": methods.Sampled(),
    "sampled-pca": methods.SampledPCA(),
    "sampled-pca above": Above(),
    "sampled-pca as published": SampledPCAAsDrawn(side="centre"),
    "averaged": methods.Averaged(temperature=1.0),
    "averaged sharp": methods.Averaged(temperature=0.2),
    "averaged arc": methods.Averaged(temperature=1.0, arc_length=True),
    "averaged as published": AveragedAsPrinted(),
    "averaged-nd": methods.AveragedND(temperature=1.0),
    "averaged-nd wide": methods.AveragedND(temperature=4.0),
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.3)
        self.head = nn.Linear(8, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.words(words)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x.reshape(len(x), 4, 4))[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Linear(16, 7), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.linear(torch.tanh(self.code(x)), self.code.weight.T))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 3))
    model[0].requires_grad_(False)
    return model


def normed() -> nn.Module:
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)),
    )


def convolution() -> nn.Module:
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 3)),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)),
    "wide": lambda: nn.Sequential(nn.Linear(16, 90), nn.ReLU(), nn.Linear(90, 3)).double(),
    "convolution": convolution,
    "batch norm": normed,
    "frozen": frozen,
    "tied": Tied,
    "attention": Attention,
    "recurrent": Recurrent,
}


def made(name: str) -> nn.Module:
    """A model whose numbers are NumPy's."""
    rng, model = np.random.default_rng(1), MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            fan = max(1, int(np.prod(parameter.shape[1:])))
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape) / fan**0.5))
    return model


def recorded(directory: Path, model: nn.Module) -> losspath.Trajectory:
    """A walk that turns and slows down, with running statistics that move."""
    rng = np.random.default_rng(2)
    wide = any(p.dtype == torch.float64 for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    drift = [rng.standard_normal(p.shape) for p in trained]
    dtype = "float64" if wide else "float32"
    with losspath.Recorder(directory, model, dtype=dtype) as recorder, torch.no_grad():
        for step in range(1, STATES):
            for parameter, towards in zip(trained, drift, strict=True):
                noise = rng.standard_normal(parameter.shape)
                towards *= 0.8
                parameter.add_(torch.from_numpy(0.08 * towards + 0.03 * noise / step**0.5))
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.mul_(0.9).add_(0.1 * torch.from_numpy(rng.random(buffer.shape)))
                else:
                    buffer.add_(1)
            recorder.record(2.0 / step)
    return losspath.Trajectory(directory)


def data_of(name: str, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    inputs = torch.from_numpy(rng.standard_normal((samples, 16)).astype(np.float32))
    if name == "attention":
        inputs = torch.from_numpy(rng.integers(20, size=(samples, 6)))
    targets = torch.from_numpy(rng.integers(3, size=samples))
    return inputs.double() if name == "wide" else inputs, targets


def objectives(name: str, model: nn.Module) -> Iterator[tuple[str, losspath.Objective]]:
    inputs, targets = data_of(name, SAMPLES)
    yield "", losspath.Objective(model, inputs, targets, F.cross_entropy, batch_size=40)
    if name == "mlp":
        batches = [(inputs[:50], targets[:50]), (inputs[50:], targets[50:])]

        def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            penalty = sum(p.square().sum() for p in model.parameters())
            return F.cross_entropy(model(batch[0]), batch[1]) + 1e-2 * penalty

        yield "batches", losspath.Objective.of_batches(model, batches, loss)
        # Enough work for the engine to be asked.
        many = data_of(name, 60_000)
        yield "many", losspath.Objective(model, *many, F.cross_entropy)
    if name == "batch norm":
        for buffers in ("model", "recalibrated"):
            given = {"batch_size": 40, "buffers": buffers}
            yield buffers, losspath.Objective(model, inputs, targets, F.cross_entropy, **given)


def numbers_of(name: str, home: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every number that is kept of a model, by what it is."""
    model = made(name)
    path = recorded(home / name.replace(" ", "-"), model)
    plane = losspath.fit_plane(path)
    yield "plane path", np.abs(plane.path.coordinates)  # signs of directions are a convention
    yield "plane residuals", plane.path.residual_norms
    sizes = losspath.step_sizes(path)
    yield "steps", sizes.sizes
    yield "turns", losspath.step_cosines(path)
    for kind, objective in objectives(name, model):
        some = METHODS if name == "mlp" and not kind else dict(list(METHODS.items())[::3])
        for method, rule in some.items():
            lines = 9 if kind == "many" else RESOLUTION
            found = losspath.compute_surface(path, objective, rule, lines, states=4)
            if kind == "many":
                assert "the plain loop" not in " ".join(found.provenance["evaluation"])
            where = f"{kind} {method}".strip()
            yield f"{where}: losses", found.loss
            yield f"{where}: states", found.states.loss
        line = losspath.interpolate(path, objective, alphas=[-0.25, 0.0, 0.4, 1.0], layers=not kind)
        for curve, values in zip(line.names, line.loss, strict=True):
            yield f"{kind} line {curve}".strip(), values
        if not kind:
            dynamics = losspath.measure_dynamics(path, objective, 3)
            yield "gradient norms", dynamics.gradient_norm
            yield "sharpness", dynamics.sharpness


def all_numbers() -> dict[str, np.ndarray]:
    """The whole baseline, in one thread."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        return {
            f"{name} | {what}": np.asarray(values, np.float64)
            for name in MODELS
            for what, values in numbers_of(name, Path(home))
        }


def main() -> int:
    found = all_numbers()
    if "--write" in sys.argv[1:]:
        np.savez_compressed(KEPT, **found)
        print(f"{len(found)} arrays of {sum(v.size for v in found.values()):,} numbers: {KEPT}")
        return 0
    wrong = differences(found)
    print("\n".join(wrong) or f"all {len(found)} as kept")
    return bool(wrong)


def differences(found: dict[str, np.ndarray]) -> list[str]:
    """One line for each array that is not as kept, to 1e-5 of its largest number."""
    wrong = []
    with np.load(KEPT) as kept:
        for what in sorted({*kept.files, *found}):
            if what not in found or what not in kept.files:
                wrong.append(f"{what}: {'is no more' if what in kept.files else 'was not kept'}")
                continue
            one, other = found[what], kept[what]
            # Curvature comes of an iteration with a tolerance of its own.
            most = 1e-2 if what.endswith("sharpness") else 1e-5
            if one.shape != other.shape:
                wrong.append(f"{what}: {one.shape}, kept {other.shape}")
            elif not np.allclose(one, other, most, most * np.abs(other).max(), equal_nan=True):
                wrong.append(f"{what}: off by {np.nanmax(np.abs(one - other)):.2g}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
