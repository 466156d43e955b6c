"""What all contenders are given: a network, its data and the path of a short training, as files."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F


class Scene:
    """What all contenders are given, as files.

    Args:
        directory: where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self, data_dir: Path | None, samples: int, points: int, states: int) -> None:
        """Writes the files.

        Args:
            data_dir: a folder with the files of MNIST; None for noise.
            samples: how many.
            points: of the grid, on each axis.
            states: of the path, the first before training.
        """
        import losspath
        from losspath.thesis.networks import build_network

        images, inputs, targets = _mnist(data_dir, samples) if data_dir else _noise(samples)
        model = build_network("lenet5", 1, 10)
        path = train(model, inputs, targets, states)
        plane = losspath.fit_plane(path)
        around = losspath.Grid.around(
            plane.path.coordinates, 4
        )  # two even lines, and two through its ends
        # As many lines an axis as peers have, so without those through the path's ends.
        x, y = (np.linspace(axis[0], axis[-1], points) for axis in (around.x, around.y))
        np.savez(self.directory / "grid.npz", x=x, y=y, path=plane.path.coordinates)
        np.save(self.directory / "path.npy", path)
        np.savez(self.directory / "images.npz", images=images, labels=targets.numpy())
        torch.save((inputs, targets), self.directory / "samples.pt")
        torch.save(model, self.directory / "model.pt")  # of torch's own layers alone

    def model(self):
        """The network at the path's last state."""
        return torch.load(self.directory / "model.pt", weights_only=False)

    def samples(self):
        """Inputs (N, 1, 32, 32) and targets (N,), tensors."""
        return torch.load(self.directory / "samples.pt")

    def images(self):
        """The same images as they are in the files (N, 28, 28), and their classes; arrays."""
        with np.load(self.directory / "images.npz") as file:
            return file["images"], file["labels"]

    def path(self):
        """(T, P) states, float32."""
        return np.load(self.directory / "path.npy")

    def grid(self):
        """The grid in losspath's plane."""
        import losspath

        with np.load(self.directory / "grid.npz") as file:
            return losspath.Grid(file["x"], file["y"])

    def coordinates(self):
        """(T, 2) coordinates of the states in losspath's plane."""
        with np.load(self.directory / "grid.npz") as file:
            return file["path"]


def _mnist(data_dir: Path, samples: int):
    from losspath.thesis import formats
    from losspath.thesis.datasets import load_dataset, sample_indices

    dataset = load_dataset("mnist", data_dir, download=False)
    chosen = sample_indices(samples, len(dataset.train_targets))
    files = [
        next(iter(sorted(data_dir.rglob(f"train-{name}-ubyte*"))))
        for name in ("images-idx3", "labels-idx1")
    ]
    images, _ = formats.read_labelled_idx(*files, (28, 28), classes=10)
    return images[chosen.numpy(), 0], dataset.train_inputs[chosen], dataset.train_targets[chosen]


def _noise(samples: int):
    from losspath.thesis.arrays import normalise_, unit_images

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (samples, 28, 28), dtype=np.uint8)
    targets = torch.from_numpy(generator.integers(0, 10, samples))
    return images, normalise_(unit_images(images[:, None]), [0.1307], [0.3081]), targets


def train(model, inputs, targets, states: int):
    """The states of a short training, which the model ends in."""
    from losspath.parameters import flatten_parameters

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    path = [flatten_parameters(model).copy()]
    while len(path) < states:
        batch = torch.randint(len(inputs), (64,), generator=generator)
        loss = F.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(flatten_parameters(model).copy())
    return np.array(path, np.float32)
