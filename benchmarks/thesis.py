"""What the thesis's own program costs: its way to a surface, said again in our words, and timed.

    python benchmarks/thesis.py [--states 200] [--samples 10000] [--points 3] [--data-dir DIR]

The program of S. Kuchta's thesis (2023) reads every state of a path into memory, takes the plane
from scikit-learn, builds the parameters of all grid points by NumPy on arrays of the whole path or
by Python loops over its states, then loads one after the other into the model and sums the loss
over 10,000 images in batches of 1000. Images come through a `DataLoader`, which decodes, resizes
and normalises every one of them again at every point. That is the variant "shipped"; "staged" is
the same loop over tensors that were made once. Every step is done as the program does it, also
where it costs more than it must; what it draws wrongly (the displaced plane, a side that depends on
the sign of an axis) is kept too, so that its points cost what they cost there.

Printed are seconds a point for building the parameters, by method, and for evaluating them, by
variant, for a path of LeNet-5 over MNIST, or over noise of the same shape where no --data-dir is
given. Building grows with the number of states, evaluating with that of the samples.
`benchmarks/compare.py` holds the evaluation against losspath and others.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.special import softmax
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader, Dataset, Subset

BATCH_SIZE = 1000
SIDE = 32
MEAN, STD = 0.1307, 0.3081  # of MNIST

METHODS = ("pca", "sampled", "sampled-pca", "averaged", "averaged-nd")
VARIANTS = ("shipped", "staged")


@dataclass(frozen=True)
class Costs:
    """Seconds for a surface, and what they were spent on.

    Attributes:
        plane: for the path's plane, once.
        building: a point, for its parameters.
        evaluation: a point, for its loss and accuracy.
        losses: one for each point.
    """

    plane: float
    building: float
    evaluation: float
    losses: list[float]


def measure(
    path: np.ndarray,
    model: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    points: np.ndarray,
    method: str,
    variant: str,
) -> Costs:
    """The costs of a surface.

    Args:
        path: (T, P) states, float32.
        model: of P parameters.
        images: (N, H, W) grey images, uint8, as they are in the files.
        labels: (N,) classes.
        points: (G, 2) coordinates in the path's plane; signs of the axes are scikit-learn's.
        method: one of METHODS.
        variant: one of VARIANTS.
    """
    began = time.perf_counter()
    reduced = Reduced(path)
    plane = time.perf_counter() - began
    batches = batches_of(images, labels, variant)
    began = time.perf_counter()
    vectors = reduced.build(points, method)
    building = time.perf_counter() - began
    began = time.perf_counter()
    losses = [evaluate(model, vector, batches)[0] for vector in vectors]
    evaluation = time.perf_counter() - began
    return Costs(plane, building / len(points), evaluation / len(points), losses)


# Images


class Images(Dataset):
    """Images as torchvision gives them: raw ones, transformed one by one when asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def transform(image: Image.Image) -> torch.Tensor:
    """Resizes, turns into a tensor and normalises, by the calls that torchvision makes for it."""
    resized = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized, copy=True)).view(SIDE, SIDE, 1)
    tensor = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.as_tensor(value, dtype=tensor.dtype) for value in (MEAN, STD))
    if (std == 0).any():
        raise ValueError("expected a standard deviation that is not zero")
    return tensor.clone().sub_(mean).div_(std)


class Staged:
    """The same batches from tensors that were made once."""

    def __init__(self, dataset: Images) -> None:
        self.inputs = torch.stack([dataset[index][0] for index in range(len(dataset))])
        self.labels = dataset.labels

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self.inputs.split(BATCH_SIZE), self.labels.split(BATCH_SIZE), strict=True)


def batches_of(
    images: np.ndarray, labels: np.ndarray, variant: str
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """What the loop over batches runs over, once for each point."""
    dataset = Images(images, labels)
    if variant == "staged":
        return Staged(dataset)
    # A subset of a subset, shuffled, loaded in the process itself.
    chosen = Subset(Subset(dataset, range(len(dataset))), range(len(dataset)))
    return DataLoader(chosen, BATCH_SIZE, shuffle=True)


# Evaluation


def evaluate(
    model: torch.nn.Module,
    vector: np.ndarray,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[float, float]:
    """Mean loss and accuracy with these parameters, which stay in the model."""
    load(model, torch.Tensor(vector))
    model.eval()
    total, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, labels in batches:
            # The program's networks end in this, ours in what it is taken of.
            outputs = F.log_softmax(model(inputs), dim=1)
            total += F.nll_loss(outputs, labels, reduction="sum").item()
            correct += (outputs.argmax(dim=1) == labels).sum().item()
            count += len(labels)
    return total / count, correct / count


def load(model: torch.nn.Module, flat: torch.Tensor) -> None:
    """Cuts a flat vector into parameters and loads them as a state."""
    state, start = {}, 0
    for name, parameter in model.named_parameters():
        part = flat[start : start + parameter.numel()]
        state[name] = torch.nn.Parameter(part.reshape(parameter.shape))
        start += parameter.numel()
    model.load_state_dict(state, strict=True)


# Points


class Reduced:
    """A path with its plane, as the program has them.

    Args:
        path: (T, P) states.
    """

    def __init__(self, path: np.ndarray) -> None:
        # A list, as states come from one file each; whatever needs an array makes one anew.
        self.states = list(path)
        pca = PCA(n_components=2)
        self.path = pca.fit_transform(self.states)
        self.x_axis, self.y_axis = pca.components_
        low, high = self.path.min(axis=0), self.path.max(axis=0)
        self.center = (low + high) / 2
        extremes = [*self.path.argmin(axis=0), *self.path.argmax(axis=0)]
        self.middle = sum(self.states[number] for number in extremes) / 4

    def build(self, points: np.ndarray, method: str) -> list[np.ndarray]:
        """The parameters of all points, which the program keeps until all are there."""
        ways: dict[str, Callable[[float, float], np.ndarray]] = {
            "pca": self.on_plane,
            "sampled": self.sampled,
            "sampled-pca": self.sampled_pca,
            "averaged": self.averaged,
            "averaged-nd": self.averaged_nd,
        }
        return [ways[method](x, y) for x, y in points.astype(self.path.dtype)]

    def on_plane(self, x: float, y: float) -> np.ndarray:
        return self._moved(self.middle, x - self.center[0], y - self.center[1])

    def sampled(self, x: float, y: float) -> np.ndarray:
        nearest, _ = self._nearest(x, y)
        return self._moved(
            self.states[nearest], x - self.path[nearest][0], y - self.path[nearest][1]
        )

    def sampled_pca(self, x: float, y: float) -> np.ndarray:
        nearest, to_state = self._nearest(x, y)
        to_center = math.sqrt((x - self.center[0]) ** 2 + (y - self.center[1]) ** 2)
        behind = y < self.path[nearest][1]
        share = 1.0 if behind else to_center / (to_center + to_state)
        return share * self.sampled(x, y) + (1 - share) * self.on_plane(x, y)

    def averaged(self, x: float, y: float) -> np.ndarray:
        offsets = np.array([x, y]) - self.path
        return self._blend(offsets, np.linalg.norm(offsets, axis=1))

    def averaged_nd(self, x: float, y: float) -> np.ndarray:
        offsets = np.array([(x - state[0], y - state[1]) for state in self.path])
        deviations = self.on_plane(x, y) - np.array(self.states)
        return self._blend(offsets, np.linalg.norm(deviations, axis=1))

    def _nearest(self, x: float, y: float) -> tuple[int, float]:
        distances = [math.sqrt((x - s[0]) ** 2 + (y - s[1]) ** 2) for s in self.path]
        least = min(distances)
        return distances.index(least), least

    def _moved(self, state: np.ndarray, x: float, y: float) -> np.ndarray:
        return state + x * self.x_axis + y * self.y_axis

    def _blend(self, offsets: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Every state moved onto the point, then all of them weighted: arrays of T × P numbers."""
        weights = softmax(-distances)
        moved = np.array(self.states) + self.x_axis * offsets[:, :1] + self.y_axis * offsets[:, 1:]
        return np.sum(moved * weights[:, np.newaxis], axis=0)


def main() -> None:
    from scene import Scene

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=200)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=3, help="points an axis")
    parser.add_argument("--data-dir", type=Path, default=None, help="with the files of MNIST")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scene = Scene(Path(directory))
        scene.make(options.data_dir, options.samples, options.points, options.states)
        path, model, points = scene.path(), scene.model(), scene.grid().points
        images, labels = scene.images()
    print(f"{len(path):,} states of {path.shape[1]:,} parameters, {len(points)} points,", end=" ")
    print(f"{len(images):,} samples, {torch.get_num_threads()} threads")
    print(f"{'method':12} {'plane s':>8} {'building s/point':>17}")
    for method in METHODS:
        few = measure(
            path, model, images[:BATCH_SIZE], labels[:BATCH_SIZE], points, method, "staged"
        )
        print(f"{method:12} {few.plane:8.3f} {few.building:17.5f}", flush=True)
    print(f"{'variant':12} {'evaluation s/point':>26}")
    for variant in VARIANTS:
        costs = measure(path, model, images, labels, points, "pca", variant)
        print(f"{variant:12} {costs.evaluation:26.4f}", flush=True)


if __name__ == "__main__":
    main()
