"""What `compare.py` compares, each in a process of its own.

    python contenders.py SCENE NAME POINTS THREADS

Writes result.json into the scene's directory. No more is imported here than this: peers'
environments have no losspath.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import Meanwhile, peak_mebibytes
from scene import Scene

BATCH_SIZES = (25, 50, 100, 250, 1000)  # tried for the plain loop
# For peers whose README names none: near the best, so that what it leaves open costs them nothing.
LOADER_BATCH_SIZE = 250
# Largest difference from losspath's losses: sums in float32, and where images are resized by
# Pillow, which rounds to whole grey levels, those as well.
ROUNDING, GREY_ROUNDING = 1e-4, 5e-3


# Contenders. Each gets the scene and the points of an axis, and returns what was measured.


@dataclass
class Result:
    """What a contender's process measured.

    Attributes:
        seconds: a point.
        losses: of the grid's points in losspath's order, where they are known.
        center: the loss of the model as it is given, by the contender's own evaluation.
        note: how it was used, where that is not plain.
        mebibytes: peak resident size of the process.
        others: cores that other processes kept busy while it ran.
    """

    seconds: float
    losses: list[float] | None = None
    center: float | None = None
    note: str = ""
    mebibytes: float = 0.0
    others: float = 0.0


def timed(work: Callable):
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    value = work()
    return value, time.perf_counter() - began


def plain_loop(scene: Scene, side: int) -> Result:
    import losspath

    (inputs, targets), model, plane = (
        scene.samples(),
        scene.model(),
        losspath.fit_plane(scene.path()),
    )
    vectors = plane.origin + scene.grid().points @ plane.basis.T
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    best = best_batch_size(objective, vectors[0])
    losses, seconds = timed(lambda: [objective(vector).loss for vector in vectors])
    return Result(seconds / len(vectors), losses, note=f"batches of {best}")


def best_batch_size(objective, vector) -> int:
    """Sets and returns the batch size that the plain loop is quickest with, on all samples."""
    times = dict.fromkeys(BATCH_SIZES, float("inf"))
    for batch_size in [*BATCH_SIZES, *BATCH_SIZES]:  # by turns
        objective.data.batch_size = batch_size
        times[batch_size] = min(times[batch_size], timed(lambda: objective(vector))[1])
    objective.data.batch_size = min(times, key=times.get)
    return objective.batch_size


def on_plane(scene: Scene, side: int) -> Result:
    return _losspath(scene, "pca")


def separate(scene: Scene, side: int) -> Result:
    from losspath.methods import Averaged

    return _losspath(scene, Averaged(temperature=1.0))  # the thesis's, whose points are the same


def _losspath(scene: Scene, method: object) -> Result:
    import losspath

    path, grid = scene.path(), scene.grid()
    objective = losspath.Objective(scene.model(), *scene.samples(), F.cross_entropy)
    given = {"plane": losspath.fit_plane(path), "grid": grid, "fidelity": False}
    # Once before, for the choice that is measured and remembered, and the states' own losses.
    first = losspath.compute_surface(path, objective, method, **given)
    surface, seconds = timed(
        lambda: losspath.compute_surface(path, objective, method, states=first.states, **given)
    )
    return Result(
        seconds / surface.loss.size,
        surface.loss.reshape(-1).tolist(),
        float(first.states.loss[-1]),
        "; ".join(surface.provenance["evaluation"][:1]),
    )


def thesis_shipped(scene: Scene, side: int) -> Result:
    return _thesis(scene, "shipped")


def thesis_staged(scene: Scene, side: int) -> Result:
    return _thesis(scene, "staged")


def _thesis(scene: Scene, variant: str) -> Result:
    import thesis

    path, model, (images, labels) = scene.path(), scene.model(), scene.images()
    # The sign of an axis is free: points as they are in the axes of its plane.
    signs = np.sign(np.sum(thesis.Reduced(path).path * scene.coordinates(), axis=0))
    points = scene.grid().points * signs
    warm_up(model, *scene.samples())
    costs = thesis.measure(path, model, images, labels, points, "averaged", variant)
    return Result(costs.evaluation, costs.losses, note="losses of its averaged surface")


def loss_landscapes(scene: Scene, side: int) -> Result:
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    metric = Loss(F.cross_entropy, inputs, targets)
    center = loss_landscapes.point(model, metric)
    _, seconds = timed(
        lambda: loss_landscapes.random_plane(model, metric, steps=side, normalization="filter")
    )
    return Result(
        seconds / side**2,
        center=center,
        note="random_plane, all samples as one batch; the README's normalize= is normalization=",
    )


def landscaper(scene: Scene, side: int) -> Result:
    from landscaper import LossLandscape
    from landscaper.utils import generate_random_orthogonal_directions

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    data = list(zip(inputs.split(LOADER_BATCH_SIZE), targets.split(LOADER_BATCH_SIZE), strict=True))

    def mean_loss(model, data):
        losses = [F.cross_entropy(model.forward(sample), label) for sample, label in data]
        return sum(losses) / len(losses)

    directions = generate_random_orthogonal_directions(model, n=2)
    landscape, seconds = timed(
        lambda: LossLandscape.compute(
            model, data, directions, mean_loss, steps=side, dim=2, device="cpu"
        )
    )
    return Result(
        seconds / side**2,
        center=_middle(landscape.loss, side),
        note=f"LossLandscape.compute, a list of batches of {LOADER_BATCH_SIZE} (its quick start "
        "names no size), random directions rather than the Hessian's",
    )


def losscape(scene: Scene, side: int) -> Result:
    import matplotlib.pyplot as plt
    from losscape.create_landscape import create_3D_losscape
    from torch.utils.data import DataLoader, TensorDataset

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    loader = DataLoader(TensorDataset(inputs, targets), LOADER_BATCH_SIZE)
    contour, ended = plt.contour, []

    def first_of_drawing(*arguments, **options):
        ended.append(time.perf_counter())
        return contour(*arguments, **options)

    # It draws in the same call; the clock stops where drawing begins.
    plt.contour = first_of_drawing
    began = time.perf_counter()
    _, _, losses = create_3D_losscape(
        model, loader, num_batches=len(loader), save_only=True, num_points=side
    )
    return Result(
        (ended[0] - began) / side**2,
        center=_middle(losses, side),
        note=f"create_3D_losscape over a DataLoader with batches of {LOADER_BATCH_SIZE} (its "
        "README names no size), all of them; the README's create_2D_losscape draws a line, and "
        "refuses the README's output_vtp=",
    )


def loss_landscape_3d(scene: Scene, side: int) -> Result:
    from loss_landscape_3d import LossLandscapeCalculator, data, generate_random_directions

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    loader = data.DataLoader(data.TensorDataset(inputs, targets), batch_size=32)
    x_axis, y_axis = generate_random_directions(model, normalize=True)
    lines = np.linspace(-1, 1, side)
    calculator = LossLandscapeCalculator(model, loader, F.cross_entropy)
    center = {name: value.clone() for name, value in model.state_dict().items()}
    losses, seconds = timed(
        lambda: calculator.calculate(lines, lines, x_axis, y_axis, center_state=center)
    )
    return Result(
        seconds / side**2,
        center=_middle(losses, side),
        note="calculate over a DataLoader with the README's batches of 32; center_state is a copy, "
        "as the README's model.state_dict() moves with the model from point to point",
    )


def warm_up(model, inputs, targets) -> None:
    """One pass, so that no contender pays for starting threads."""

    with torch.no_grad():
        F.cross_entropy(model(inputs[:1000]), targets[:1000])


def _middle(losses, side: int) -> float | None:
    return float(losses[side // 2][side // 2]) if side % 2 else None


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: in the table and for --only.
        evaluate: measures it, in a process of its own.
        rounding: the largest relative difference of its losses from `reference`'s, at the same
            points, or at the model itself where it has other points.
        reference: whose losses are compared.
        package: to install, pinned; empty for what needs this repository alone.
    """

    name: str
    evaluate: Callable[[Scene, int], Result]
    rounding: float = ROUNDING
    reference: str = "losspath-plane"
    package: str = ""


PLANE, SEPARATE = "losspath-plane", "losspath-separate"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(PLANE, on_plane),
        Contender(SEPARATE, separate, reference=SEPARATE),
        Contender("plain-loop", plain_loop),
        Contender("thesis-staged", thesis_staged, GREY_ROUNDING, SEPARATE),
        Contender("thesis-shipped", thesis_shipped, GREY_ROUNDING, SEPARATE),
        Contender("loss-landscapes", loss_landscapes, package="loss-landscapes==3.0.6"),
        Contender("landscaper", landscaper, package="landscaper==1.3.1"),
        Contender("losscape", losscape, package="losscape==1.5.10"),
        Contender("loss-landscape-3d", loss_landscape_3d, package="loss-landscape-3d==0.1.3"),
    )
}


def measure(directory: str, name: str, side: str, threads: str) -> None:
    """What a contender's process does."""

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    meanwhile = Meanwhile()
    with contextlib.redirect_stdout(sys.stderr):
        result = CONTENDERS[name].evaluate(Scene(Path(directory)), int(side))
    result.others, result.mebibytes = meanwhile.others(), peak_mebibytes()
    (Path(directory) / "result.json").write_text(json.dumps(vars(result)))


if __name__ == "__main__":
    measure(*sys.argv[1:])
