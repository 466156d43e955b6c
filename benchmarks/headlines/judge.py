"""Holds what the two programs of an example found against plain torch in double precision.

    python judge.py SCENE EXAMPLE

A surface is held against the loss at the parameters where its picture says that it is, at 60 points
from all over it. Besides, losspath evaluates the same points as the peer. Writes judged.json into
the scene's directory.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from scene import Scene  # noqa: E402

import losspath  # noqa: E402

TOLERANCE = 1e-5  # of eigenvalues
POINTS = 60  # of a surface, as one takes a pass in double precision


@dataclass
class Judged:
    """How far the two programs are off.

    Attributes:
        theirs: the largest relative difference of the peer's numbers from plain torch.
        losspath: the same of losspath's, in its own picture and at the peer's points.
        note: what else there is to say.
    """

    theirs: float
    losspath: float
    note: str = ""


class Truth:
    """Plain torch in double precision, and what the programs left.

    Args:
        scene: what the programs were given.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.path = scene.path()
        self.last = self.path[-1].astype(np.float64)
        self.model = scene.model().double().eval()
        inputs, self.targets = scene.samples()
        self.inputs = inputs.double()

    def kept(self, program: str) -> dict[str, np.ndarray]:
        """The numbers that a program left."""
        with np.load(self.scene.directory / f"{program}.npz") as file:
            return dict(file)

    def traced(self, count: int) -> np.ndarray:
        """(count, P) the last parameters at which the traced program called its model."""
        return np.load(self.scene.directory / "trace.npy").astype(np.float64)[-count:]

    def losses(self, vectors: np.ndarray) -> np.ndarray:
        """(…) the loss at vectors (…, P), by one pass over all samples for each."""
        found = []
        with torch.no_grad():
            for vector in vectors.reshape(-1, vectors.shape[-1]):
                torch.nn.utils.vector_to_parameters(
                    torch.from_numpy(vector.copy()), self.model.parameters()
                )
                found.append(float(F.cross_entropy(self.model(self.inputs), self.targets)))
        return np.array(found).reshape(vectors.shape[:-1])

    @cached_property
    def curvature(self) -> tuple[np.ndarray, np.ndarray]:
        """(2,) the Hessian's largest eigenvalues at the last state, and (P, 2) its eigenvectors.

        They are kept beside the scene for the next example.
        """
        file = self.scene.directory / "curvature.npz"
        if file.exists():
            with np.load(file) as kept:
                return kept["values"], kept["vectors"]
        parameters = list(self.model.parameters())
        torch.nn.utils.vector_to_parameters(torch.from_numpy(self.last.copy()), parameters)
        loss = F.cross_entropy(self.model(self.inputs), self.targets)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        flat = torch.cat([each.reshape(-1) for each in gradient])

        def product(vector: np.ndarray) -> np.ndarray:
            along = torch.from_numpy(vector.reshape(-1).copy())
            found = torch.autograd.grad(flat @ along, parameters, retain_graph=True)
            return torch.cat([each.reshape(-1) for each in found]).numpy()

        size = len(self.last)
        begin = np.random.default_rng(0).standard_normal(size) / size**0.5
        if (self.scene.directory / "landscaper_losspath.npz").exists():
            # Begun near losspath's, which spares most of the products; what is found is checked.
            begin = 0.1 * begin + self.kept("landscaper_losspath")["basis"].sum(axis=1)
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        values, vectors = eigsh(operator, k=2, which="LA", v0=begin, tol=TOLERANCE)
        left = [
            np.linalg.norm(product(v) - a * v) / a for a, v in zip(values, vectors.T, strict=True)
        ]
        assert max(left) < 100 * TOLERANCE, f"no eigenvectors: {left}"
        np.savez(file, values=values[::-1], vectors=vectors[:, ::-1])
        return values[::-1], vectors[:, ::-1]

    def by_losspath(self, vectors: np.ndarray) -> np.ndarray:
        """(…) losspath's losses at vectors (…, P) of one plane."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        center = flat.mean(axis=0)
        basis = np.linalg.svd(flat - center, full_matrices=False)[2][:2].T
        plane = losspath.Plane(center, basis, ("first", "second"))
        objective = losspath.Objective(self.scene.model(), *self.scene.samples(), F.cross_entropy)
        landscape = losspath.Landscape(self.path, objective, "pca", plane=plane)
        found = landscape.evaluate((flat - center) @ basis)
        return np.array([each.loss for each in found]).reshape(vectors.shape[:-1])

    def own_picture(self, program: str) -> float:
        """How far losspath's surface is off at its own points."""
        kept = self.kept(program)
        points = grid(kept["origin"], kept["y"], kept["x"], kept["basis"][:, ::-1])
        return self.off(kept["loss"], points)

    def off(self, found: np.ndarray, vectors: np.ndarray) -> float:
        """The largest relative difference of some losses (…) from those at vectors (…, P)."""
        found, vectors = found.reshape(-1), vectors.reshape(-1, vectors.shape[-1])
        chosen = np.random.default_rng(0).permutation(len(found))[:POINTS]
        return off(found[chosen], self.losses(vectors[chosen]))


def grid(center: np.ndarray, first: np.ndarray, second: np.ndarray, basis: np.ndarray):
    """(n, m, P): center + first[i] · basis[:, 0] + second[j] · basis[:, 1]."""
    one, other = first[:, None] * basis[:, 0], second[:, None] * basis[:, 1]
    return center + one[:, None] + other[None]


def off(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative difference from what is right."""
    return float(np.max(np.abs(found - truth) / np.abs(truth)))


def loss_landscapes(truth: Truth) -> Judged:
    found = truth.kept("loss_landscapes_theirs")["loss"]
    side = len(found)
    visited = truth.traced(side**2).reshape(side, side, -1)
    visited[1::2] = visited[1::2, ::-1].copy()  # these rows are gone through backwards
    first, second = (visited[2, 0] - visited[0, 0]) / 2, visited[0, 1] - visited[0, 0]
    lines = np.arange(side)
    shown = grid(visited[0, 0], lines, lines, np.stack([first, second], axis=1))
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    return Judged(
        truth.off(found, shown),
        max(
            truth.own_picture("loss_landscapes_losspath"),
            truth.off(truth.by_losspath(shown), shown),
        ),
        "every second row of its array is a step off, as rows are gone through by turns: each "
        f"loss is right within {truth.off(found, visited):.0e} where it was evaluated, and its "
        f"even rows within {truth.off(found[::2], shown[::2]):.0e} where they are shown; its "
        f"directions have a cosine of {cosine:.2f}",
    )


def landscaper(truth: Truth) -> Judged:
    kept, ours = (truth.kept(f"landscaper_{which}") for which in ("theirs", "losspath"))
    found, side, length = kept["loss"], len(kept["x"]), np.linalg.norm(truth.last)
    values, vectors = truth.curvature
    visited = truth.traced(side**2).reshape(side, side, -1)
    actual = np.stack([visited[-1, 0] - visited[0, 0], visited[0, -1] - visited[0, 0]], axis=1)
    actual /= np.linalg.norm(actual, axis=0)
    signs = np.sign(np.sum(actual * vectors, axis=0))
    shown = grid(truth.last, kept["x"] * length, kept["y"] * length, vectors * signs)
    highest = found == found.max()
    cosines = np.abs(np.sum(actual * vectors, axis=0))
    ours_signs = np.sign(np.sum(ours["basis"] * vectors, axis=0))
    points = grid(truth.last, ours["y"], ours["x"], (vectors * ours_signs)[:, ::-1])
    return Judged(
        truth.off(found, shown),
        max(truth.off(ours["loss"], points), truth.off(truth.by_losspath(visited), visited)),
        "it rescales each parameter of an eigenvector to the root of its size: what it walks "
        f"along has a cosine of {cosines[0]:.2f} and {cosines[1]:.2f} with the eigenvectors, and "
        f"the two one of {actual[:, 0] @ actual[:, 1]:.2f}; where it evaluated, its losses are "
        f"right within {truth.off(found[~highest], visited[~highest]):.0e}, but the highest, to "
        f"which it adds a random number, is {truth.off(found[highest], visited[highest]):.0e} off; "
        f"its eigenvalues are within {off(kept['eigenvalues'], values):.0e}; losspath's surface is "
        f"within {truth.own_picture('landscaper_losspath'):.0e} on the plane of its own "
        "eigenvectors, which are within its tolerance of 0.01",
    )


def loss_landscape_3d(truth: Truth) -> Judged:
    kept = truth.kept("loss_landscape_3d_theirs")
    directions = np.load(truth.scene.directory / "directions.npy").astype(np.float64).T
    shown = grid(truth.last, kept["x"], kept["y"], directions)
    middle = (len(shown) // 2,) * 2
    return Judged(
        truth.off(kept["loss"], shown),
        max(
            truth.off(truth.kept("loss_landscape_3d_losspath")["loss"].T, shown),
            truth.off(truth.by_losspath(shown), shown),
        ),
        "the README's center_state=model.state_dict() moves with the model from point to point: "
        f"in the middle, which is the model itself, it shows {kept['loss'][middle]:.3g} instead of "
        f"{truth.losses(shown[middle]):.3g}; a copy of the state is right",
    )


def loss_landscape_3d_path(truth: Truth) -> Judged:
    kept = truth.kept("loss_landscape_3d_path_theirs")
    basis = np.stack([kept["dir_x"], kept["dir_y"]], axis=1).astype(np.float64)
    shown = grid(kept["center"].astype(np.float64), kept["x"], kept["y"], basis)
    cosines = np.linalg.svd(basis.T @ truth.kept("loss_landscape_3d_path_losspath")["basis"])[1]
    own = truth.own_picture("loss_landscape_3d_path_losspath")
    return Judged(
        truth.off(kept["loss"], shown),
        max(own, truth.off(truth.by_losspath(shown), shown)),
        f"the two planes of principal components have an angle whose cosine is {cosines[1]:.4f}, "
        "as losspath's path has the state before the first step too; its picture is a page with "
        "the surface in three dimensions, losspath's a map with the path's own losses",
    )


def nngeom(truth: Truth) -> Judged:
    theirs, ours = (
        float(truth.kept(f"nngeom_{which}")["sharpness"]) for which in ("theirs", "losspath")
    )
    value = truth.curvature[0][:1]
    return Judged(
        off(np.array([theirs]), value),
        off(np.array([ours]), value),
        "the number is the Hessian's largest eigenvalue, which both have; its report also has the "
        "trace of the Hessian, the width of the basin and random perturbations, which losspath has "
        "not, and losspath's figure loss and gradient, at two states",
    )


def nngeom_barrier(truth: Truth) -> Judged:
    theirs, ours = (truth.kept(f"nngeom_barrier_{which}") for which in ("theirs", "losspath"))
    alpha = np.linspace(0, 1, len(theirs["loss"]))[:, None]
    other = np.load(truth.scene.directory / "other.npy").astype(np.float64)
    expected = truth.losses((1 - alpha) * other + alpha * truth.last)
    return Judged(
        off(theirs["loss"], expected),
        off(ours["loss"], expected),
        f"its barrier is {theirs['barrier']:.4g}, above the higher end; losspath's is "
        f"{ours['barrier']:.4g}, above the straight line between the ends",
    )


JUDGES: dict[str, Callable[[Truth], Judged]] = {
    judge.__name__: judge
    for judge in (
        loss_landscapes,
        landscaper,
        loss_landscape_3d,
        loss_landscape_3d_path,
        nngeom,
        nngeom_barrier,
    )
}


if __name__ == "__main__":
    directory, example = sys.argv[1:]
    judged = JUDGES[example](Truth(Scene(Path(directory))))
    (Path(directory) / "judged.json").write_text(json.dumps(asdict(judged)))
