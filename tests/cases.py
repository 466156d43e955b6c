"""Problems with known surfaces, every method, and the formulas written out as plain loops.

Nothing here uses the package's own geometry: the expected surfaces come from NumPy alone.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

import losspath
from losspath.evaluation.objective import Objective
from losspath.geometry.plane import PrincipalPlane
from losspath.geometry.projection import Projection
from losspath.methods import (
    PCA,
    Averaged,
    AveragedND,
    LocalDraws,
    LocalPlanes,
    Sampled,
    SampledPCA,
)
from losspath.thesis.as_drawn import (
    AveragedAsPrinted,
    AveragedNDAsPrinted,
    PCAAsDrawn,
    SampledPCAAsDrawn,
)

METHODS = [
    PCA(),
    Sampled(),
    SampledPCA(),
    SampledPCA(side="hull"),
    Averaged(temperature=1.0),
    Averaged(temperature=0.2),
    Averaged(temperature="auto"),
    Averaged(temperature="auto", arc_length=True),
    AveragedND(temperature=1.0),
    AveragedND(temperature="auto"),
    AveragedND(temperature=2.5, arc_length=True),
    Sampled(distance="manhattan"),
    Sampled(distance="mahalanobis"),
    Averaged(temperature="auto", distance="manhattan"),
    Averaged(temperature=0.3, arc_length=True, distance="mahalanobis"),
    Averaged(temperature="auto", distance="mahalanobis"),
    LocalPlanes(),
    LocalPlanes(states=4, line=1, chords=3, neighbours=3, mean="loss", power=1.0),
    LocalDraws(draws=4),
    LocalDraws(draws=2, bandwidth=0.5, mean="loss", seed=1),
]
AS_DRAWN = [
    PCAAsDrawn(),
    SampledPCAAsDrawn(side="centre"),
    SampledPCAAsDrawn(side="sign"),
    SampledPCAAsDrawn(side="above"),
    SampledPCAAsDrawn(side="below"),
    AveragedAsPrinted(),
    AveragedAsPrinted(temperature="auto", arc_length=True),
    AveragedNDAsPrinted(),
]


def named(value):
    """A test's name for a method or problem."""
    return value.describe() if hasattr(value, "describe") else value.name


class Landscape(torch.nn.Module):
    """A function of a vector that is split over two parameters of different shapes."""

    def __init__(self, function, count, dtype=torch.float64):
        super().__init__()
        self.function = function
        self.first = torch.nn.Parameter(torch.zeros(count // 2, dtype=dtype))
        self.second = torch.nn.Parameter(torch.zeros(count - count // 2, 1, dtype=dtype))

    def forward(self, inputs):
        vector = torch.cat([self.first, self.second.reshape(-1)])
        return self.function(vector).expand(len(inputs))


class Watched(Objective):
    """An objective of a `Landscape` that keeps the vectors it was asked for."""

    def __init__(self, model, *arguments):
        function, self.vectors = model.function, []

        def watched(vector):
            self.vectors.append(vector.detach().numpy().copy())
            return function(vector)

        model.function = watched
        super().__init__(model, *arguments)
        self.vectors.clear()

    def fingerprint(self, *arguments):
        before = len(self.vectors)
        found = super().fingerprint(*arguments)
        del self.vectors[before:]
        return found


def mean_output(outputs, targets):
    return outputs.mean()


def objective_of(function, count, kind=Objective, dtype=torch.float64):
    """The objective of a torch function of a parameter vector."""
    model = Landscape(function, count, dtype)
    return kind(model, torch.zeros(3, 1), torch.zeros(3), mean_output)


def quadratic(matrix, center):
    """½ (w − c)ᵀ A (w − c) for torch."""
    matrix, center = torch.from_numpy(matrix), torch.from_numpy(center)
    return lambda w: 0.5 * (w - center) @ (matrix @ (w - center))


@dataclass(frozen=True)
class Problem:
    """A path in a quadratic bowl."""

    name: str
    path: np.ndarray
    matrix: np.ndarray
    bottom: np.ndarray

    def objective(self, kind=Objective):
        return objective_of(quadratic(self.matrix, self.bottom), len(self.bottom), kind)

    def loss(self, vector):
        away = np.asarray(vector, np.float64) - self.bottom
        return 0.5 * sum(
            away[i] * self.matrix[i, j] * away[j]
            for i in range(len(away))
            for j in range(len(away))
        )


def problem(name, path, seed=0):
    rng = np.random.default_rng(seed)
    count = path.shape[1]
    factor = rng.standard_normal((count, count))
    matrix = factor @ factor.T / count + np.diag(np.linspace(0.2, 1.0, count))
    return Problem(name, path, matrix, rng.standard_normal(count))


def descent(steps, count, seed=0, noise=0.15, rate=0.15):
    """A noisy way down a quadratic bowl, T × P in float64."""
    rng = np.random.default_rng(seed)
    curvature = np.linspace(0.2, 3.0, count)
    state = 2.0 * rng.standard_normal(count) + 1.0
    path = [state]
    for _ in range(steps - 1):
        state = state - rate * curvature * state + noise * rng.standard_normal(count)
        path.append(state)
    return np.array(path)


def loop():
    """A closed way: the last state is the first."""
    angles = np.linspace(0.0, 2.0 * np.pi, 11)[:-1]
    rng = np.random.default_rng(3)
    states = np.stack([np.cos(angles) * 3.0, np.sin(angles) * 2.0, np.cos(2 * angles)], axis=1)
    states = np.concatenate([states, states[:1]]) @ rng.standard_normal((3, 5))
    return states + rng.standard_normal(5)


def line():
    """States on a line, unevenly, so that no point lies half-way between two of them."""
    rng = np.random.default_rng(4)
    along = np.array([0.0, 0.3, 0.37, 0.8, 1.45, 1.5])
    return rng.standard_normal(5) + np.outer(along, rng.standard_normal(5))


PROBLEMS = [
    problem("descent", descent(12, 6)),
    problem("fewer states than parameters", descent(5, 12, seed=1)),
    problem("more states than parameters", descent(40, 3, seed=2)),
    problem("closed loop", loop()),
    problem("every state twice", np.repeat(descent(7, 5, seed=5), 2, axis=0)),
    problem("on a line", line()),
    problem("two states", descent(2, 4, seed=6)),
    problem("three states", descent(3, 4, seed=10)),
    problem("two parameters", descent(9, 2, seed=7)),
    problem("far from zero", descent(10, 5, seed=8) + 100.0),
    problem("float32", descent(15, 6, seed=9).astype(np.float32)),
]


@dataclass(frozen=True)
class Reference:
    """The path's plane by definition."""

    mean: np.ndarray
    basis: np.ndarray
    path: np.ndarray
    residuals: np.ndarray
    center: np.ndarray
    variances: np.ndarray


def reference_plane(states):
    """Mean, principal axes and coordinates, from the covariance's eigenvectors."""
    states = np.asarray(states, np.float64)
    mean = sum(states) / len(states)
    away = states - mean
    values, vectors = np.linalg.eigh(sum(np.outer(row, row) for row in away) / (len(states) - 1))
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2].copy()
    flat = values[1] < 1e-12 * values[0]
    if flat:  # completed by the unit vector that is least along the first axis
        axis = np.eye(len(mean))[np.abs(vectors[:, 0]).argmin()]
        axis -= (axis @ vectors[:, 0]) * vectors[:, 0]
        vectors[:, 1] = axis / np.linalg.norm(axis)
    path = np.array([[row @ vectors[:, 0], row @ vectors[:, 1]] for row in away])
    if flat:
        path[:, 1] = 0.0
    for axis in (0, 1):
        farthest = path[np.abs(path[:, axis]).argmax(), axis]
        start = path[0, axis]
        if (start if abs(start) > 1e-3 * abs(farthest) else farthest) > 0:
            path[:, axis] *= -1.0
            vectors[:, axis] *= -1.0
    residuals = np.array([row - vectors @ p for row, p in zip(away, path, strict=True)])
    center = np.array([(min(column) + max(column)) / 2 for column in path.T])
    return Reference(mean, vectors, path, residuals, center, np.maximum(values, 0.0))


def reference_lines(path, axis, resolution):
    """The even lines, and those of the start and the end where none is there yet."""
    widths = [max(column) - min(column) for column in path.T]
    width = widths[axis] if widths[axis] > 1e-9 * max(widths) else max(widths)
    middle = (min(path[:, axis]) + max(path[:, axis])) / 2
    count = resolution - 2
    lines = [path[0, axis]]
    if abs(path[-1, axis] - lines[0]) > 1e-9 * width:
        lines.append(path[-1, axis])
    for k in range(count):
        even = middle + 0.6 * width * (-1 + 2 * k / (count - 1) if count > 1 else 0.0)
        if all(abs(even - other) > 1e-9 * width for other in lines):
            lines.append(even)
    return np.array(sorted(lines))


def reference_loss(problem, method, point, plane):
    """The loss at a point by the method's definition."""
    if not isinstance(method, (LocalPlanes, LocalDraws)):
        return problem.loss(reference_parameters(method, point, plane))
    shares = reference_shares(method, point, plane)
    found = [
        (share, problem.loss(plane.mean + plane.basis @ point + anchor @ plane.residuals))
        for share, anchor in shares
    ]
    if method.mean == "log-loss" and all(loss > 0 for _, loss in found):
        return math.prod(loss**share for share, loss in found)
    return sum(share * loss for share, loss in found)


def reference_shares(method, point, plane):
    """The vectors that a point has, as weights of states, and the share of each."""
    if isinstance(method, LocalDraws):
        return [(1 / method.draws, row) for row in reference_draws(method, point, plane)]
    anchors = method.anchors(projection_of(plane)).toarray()
    apart = [math.dist(point, anchor @ plane.path) for anchor in anchors]
    some = sorted(apart)[: method.neighbours + 1]
    radius = some[-1] if len(some) > method.neighbours else math.inf
    near = [n for n, distance in enumerate(apart) if distance <= radius * (1 + 1e-9)]
    there = [number for number in near if apart[number] <= 1e-12 * max(apart)]
    if there:
        return [(1 / len(there), anchors[number]) for number in there]
    raw = [((1 - apart[n] / radius + 1e-9) / apart[n]) ** method.power for n in near]
    raw = [share if share > 1e-6 * max(raw) else 0.0 for share in raw]
    return [(share / sum(raw), anchors[n]) for share, n in zip(raw, near, strict=True)]


def reference_draws(method, point, plane):
    """Rows of weights: the mean of states near a point, and what a draw has beside it."""
    count = len(plane.path)
    means = reference_weights(method, point, plane)
    for noise in method.noise(count):
        row = means.copy()
        for i in range(count):
            away = -means
            away[i] += 1.0  # r_i − r̄
            row = row + math.sqrt(means[i]) * noise[i] * away
        yield row


def reference_weights(method, point, plane):
    """One row of weights by the method's definition."""
    count = len(plane.path)
    if isinstance(method, LocalPlanes):
        return sum(share * anchor for share, anchor in reference_shares(method, point, plane))
    if isinstance(method, LocalDraws):
        bandwidth = method.resolve(projection_of(plane)).bandwidth
        return averaged_weights(Averaged(bandwidth), point, plane)
    if isinstance(method, (Averaged, AveragedND)):
        return averaged_weights(method, point, plane)
    weights = np.zeros(count)
    if isinstance(method, PCA):
        return weights
    near, rule = 0, getattr(method, "distance", None)
    for i in range(count):
        if apart(rule, point, i, plane) < apart(rule, point, near, plane):
            near = i
    weights[near] = 1.0
    if isinstance(method, SampledPCA):
        d_p, d_c = math.dist(point, plane.path[near]), math.dist(point, plane.center)
        if is_inside(method.side, point, plane.path[near], plane) and d_p + d_c > 0:
            weights[near] = d_c / (d_c + d_p)
    return weights


def apart(rule, point, index, plane):
    """The distance from a point to a state by its definition."""
    name = "euclidean" if rule is None else rule.name
    away = point - plane.path[index]
    if name == "manhattan":
        return abs(away[0]) + abs(away[1])
    if name == "mahalanobis":
        mean = sum(plane.path) / len(plane.path)
        covariance = sum(np.outer(p - mean, p - mean) for p in plane.path) / (len(plane.path) - 1)
        return math.sqrt(away @ np.linalg.pinv(covariance, rcond=1e-12, hermitian=True) @ away)
    if name == "euclidean-nd":  # in R^P, from the plane's point θ̄ + U g to the state, as vectors
        return np.sqrt(np.sum((plane.basis @ away - plane.residuals[index]) ** 2))
    return math.dist(point, plane.path[index])


def is_inside(side, point, state, plane):
    if side == "hull":
        # Inside a convex hull, no half-plane around the point is free of states.
        angles = sorted(math.atan2(*(p - point)[::-1]) for p in plane.path if any(p != point))
        gaps = [after - before for before, after in itertools.pairwise(angles)]
        return max([*gaps, angles[0] + 2 * math.pi - angles[-1]]) < math.pi - 1e-9
    if side in ("above", "below"):
        return point[1] >= state[1] if side == "above" else point[1] <= state[1]
    if side == "sign":
        return (point[1] - state[1]) * (plane.center[1] - state[1]) >= 0
    return (point - state) @ (plane.center - state) >= 0


def averaged_weights(method, point, plane):
    count = len(plane.path)
    distances = [apart(method.distance, point, i, plane) for i in range(count)]
    temperature = method.temperature
    if temperature == "auto":
        mean = sum(plane.path) / count
        squares = [apart(method.distance, mean, i, plane) ** 2 for i in range(count)]
        temperature = math.sqrt(sum(squares) / count / 2) * min(count, 100) ** (-1 / 6)
    raw = np.array([math.exp(-(d - min(distances)) / temperature) for d in distances])
    if method.arc_length:
        steps = [math.dist(a, b) for a, b in itertools.pairwise(plane.path)]
        raw *= [
            (before + after) / 2 for before, after in zip([0, *steps], [*steps, 0], strict=True)
        ]
    return raw / sum(raw)


def reference_parameters(method, point, plane):
    """θ(g) by the method's definition."""
    weights = reference_weights(method, point, plane)
    states = [
        plane.mean + plane.basis @ p + r for p, r in zip(plane.path, plane.residuals, strict=True)
    ]
    if isinstance(method, (PCAAsDrawn, SampledPCAAsDrawn)):
        extremes = [plane.path[:, 0].argmin(), plane.path[:, 0].argmax()]
        extremes += [plane.path[:, 1].argmin(), plane.path[:, 1].argmax()]
        average = sum(states[i] for i in extremes) / 4
        displaced = average + plane.basis @ (point - plane.center)
        near = int(np.argmax(weights))
        share = weights[near]  # none, for pca
        state = states[near] + plane.basis @ (point - plane.path[near])
        return share * state + (1 - share) * displaced
    if isinstance(method, (AveragedAsPrinted, AveragedNDAsPrinted)):
        return sum(w * state for w, state in zip(weights, states, strict=True))
    blend = sum(w * r for w, r in zip(weights, plane.residuals, strict=True))
    return plane.mean + plane.basis @ point + blend


def mirrored_plane(plane, axis):
    """The same plane with the other sign of one axis."""
    signs = np.ones(plane.basis.shape[1])
    signs[axis] = -1.0
    if isinstance(plane, Reference):
        return replace(plane, basis=plane.basis * signs, path=plane.path * signs)
    path = replace(plane.path, coordinates=plane.path.coordinates * signs)
    return replace(plane, basis=plane.basis * signs, path=path)


def small_network():
    """From five numbers to three classes."""
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def short_training(samples, steps):
    """The path of a training on classes with noise, its objective, and what that is made of."""
    torch.manual_seed(0)
    model, x = small_network(), torch.randn(samples, 5)
    y = (x[:, 0] + 0.3 * torch.randn(samples) > 0).long() + (x[:, 1] > 1).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    path = []
    for _ in range(steps):
        path.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy())
        chosen = torch.randint(samples, (32,))
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(path), Objective(model, x, y, F.cross_entropy), (model, x, y)


def noise_off_the_plane(states=400):
    """A path with noise off its plane, whose mean has a loss lower by the variance.

    Path, plane, objective, places and the expected loss there.
    """
    rng = np.random.default_rng(0)
    time = np.linspace(0, 1, states)
    path = np.concatenate([np.stack([8 * time, np.sin(5 * time)]), rng.normal(size=(60, states))]).T
    plane = losspath.Plane(np.zeros(62), np.eye(62)[:, :2], ("x", "y"))
    objective = objective_of(lambda w: 1.0 + (w[2:] ** 2).mean() + 0.1 * (w[:2] ** 2).sum(), 62)
    places = path[states // 80 :: states // 40, :2]
    return path, plane, objective, places, 2.0 + 0.1 * (places**2).sum(axis=1)


def projection(coordinates, residual_norms=None):
    """A path as a plane shows it, made up."""
    coordinates = np.asarray(coordinates, np.float64)
    norms = np.zeros(len(coordinates)) if residual_norms is None else np.asarray(residual_norms)
    squares = np.sum((coordinates - coordinates.mean(axis=0)) ** 2) + np.sum(norms**2)
    return Projection(coordinates, np.asarray(norms, np.float64), squares, "made up")


def projection_of(plane: PrincipalPlane | Reference):
    """What methods know of a path."""
    if isinstance(plane, Reference):
        return projection(plane.path, np.linalg.norm(plane.residuals, axis=1))
    return plane.path


SURFACE_ARRAYS = ("x", "y", "loss", "evaluated", "path", "explained_variance_ratio")


def assert_same(one, other):
    """Asserts that two surfaces are the same bit for bit."""
    for field in SURFACE_ARRAYS:
        assert getattr(one, field).tobytes() == getattr(other, field).tobytes()
        assert getattr(one, field).shape == getattr(other, field).shape
    assert (one.accuracy is None) == (other.accuracy is None)
    if one.accuracy is not None:
        assert one.accuracy.tobytes() == other.accuracy.tobytes()
    assert one.states.index.tolist() == other.states.index.tolist()
    assert one.states.loss.tobytes() == other.states.loss.tobytes()
    assert one.provenance == other.provenance


def classifier():
    """Twenty samples of three classes, a linear model, and a path through its parameters."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(4, 3)
    inputs = torch.randn(20, 4, generator=generator)
    targets = torch.randint(0, 3, (20,), generator=generator)
    objective = Objective(model, inputs, targets, torch.nn.functional.cross_entropy)
    return objective, descent(9, 15).astype(np.float32)


class CountedPath:
    """A path that keeps which states were read."""

    def __init__(self, states):
        self.states = np.ascontiguousarray(states)
        self.parameter_count, self.dtype = states.shape[1], states.dtype
        self.digest = "counted"
        self.reads = []

    def __len__(self):
        return len(self.states)

    def read(self, start, stop, out=None):
        self.reads += range(start, stop)
        out = np.empty((stop - start, self.parameter_count), self.dtype) if out is None else out
        out[:] = self.states[start:stop]
        return out
