"""Distances between states by predictions: known answers, and the plain loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn

import losspath
from losspath import FunctionDistances, Objective, function_distances, plot_function_distances
from losspath.analysis import function_space, predictions
from losspath.analysis.embedding import embed
from losspath.errors import ArgumentError, PathError, UnsupportedError
from losspath.parameters import flatten_parameters

KINDS = ("l2", "disagreement", "jensen-shannon")


def classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))


def data(count=40, seed=0):
    torch.manual_seed(seed)
    return torch.randn(count, 4), torch.randint(3, (count,))


def objective(model=None, **options):
    return Objective(model or classifier(), *data(), F.cross_entropy, **options)


def states_of(*models):
    return np.stack([flatten_parameters(each) for each in models])


def caption_of(figure):
    return " ".join(text.get_text().replace("\n", " ") for text in figure.texts)


@pytest.fixture(scope="module")
def path():
    return states_of(*(classifier(seed) for seed in range(5)))


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_units_are_another_vector_and_the_same_function(kind):
    one, other = classifier(), classifier()
    order = torch.randperm(6)
    with torch.no_grad():
        other[0].weight.copy_(one[0].weight[order])
        other[0].bias.copy_(one[0].bias[order])
        other[3].weight.copy_(one[3].weight[:, order])
        other[3].bias.copy_(one[3].bias)
    path = states_of(one, other, classifier(1))
    found = function_distances(path, objective(), distance=kind)
    assert found.weights[0, 1] > 0.5
    assert found.functions[0, 1] == pytest.approx(0.0, abs=1e-6)
    assert found.functions[0, 2] > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_those_of_the_plain_loop(path, kind):
    found = function_distances(path, objective(batch_size=7), distance=kind)
    x, _ = data()
    outputs = [classifier(seed).eval()(x).detach().double().numpy() for seed in range(5)]
    for i, one in enumerate(outputs):
        for j, other in enumerate(outputs):
            if kind == "l2":
                expected = np.sqrt(np.mean(np.sum((one - other) ** 2, axis=1)))
            elif kind == "disagreement":
                expected = np.mean(one.argmax(1) != other.argmax(1))
            else:
                shares = [
                    np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in (one, other)
                ]
                expected = np.sqrt(np.mean(jensenshannon(*shares, base=2, axis=1) ** 2))
            assert found.functions[i, j] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(found.weights[0, 1], np.linalg.norm(path[0] - path[1]), rtol=1e-6)
    assert found.provenance["predictions"] == 40
    assert found.distance == kind


def test_a_linear_network_has_the_linear_image_of_its_path():
    generator = np.random.default_rng(0)
    path = np.cumsum(generator.standard_normal((12, 6)), axis=0)
    x = torch.randn(30, 3)
    made = Objective(nn.Linear(3, 2, bias=False), x, torch.zeros(30, 2), F.mse_loss)
    found = function_distances(path, made, states=12)
    assert found.distance == "l2"
    image = np.einsum("tkp,np->tnk", path.reshape(12, 2, 3), x.numpy()).reshape(12, -1)
    image = (image - image.mean(axis=0)) / np.sqrt(30)
    _, singular, rows = np.linalg.svd(image, full_matrices=False)
    np.testing.assert_allclose(
        np.abs(found.function_embedding.coordinates), np.abs(image @ rows[:2].T), atol=1e-4
    )
    expected = singular[:2] ** 2 / np.sum(singular**2)
    np.testing.assert_allclose(found.function_embedding.shares, expected, rtol=1e-4)


def test_the_plane_by_weights_is_the_principal_one(path):
    found, plane = function_distances(path, objective()), losspath.fit_plane(path)
    np.testing.assert_allclose(
        np.abs(found.weight_embedding.coordinates), np.abs(plane.path.coordinates), atol=1e-5
    )
    ratio = plane.path.explained_variance_ratio
    np.testing.assert_allclose(found.weight_embedding.shares, ratio, rtol=1e-5)
    np.testing.assert_allclose(found.random_walk.shares, plane.random_walk.shares, rtol=1e-4)


class Scores(nn.Module):
    """Scores that are the parameters, whatever comes in."""

    def __init__(self, *shape):
        super().__init__()
        self.scores = nn.Parameter(torch.randn(*shape))

    def forward(self, x):
        return self.scores + 0 * x


def test_certain_and_opposite_predictions_are_one_apart():
    one = np.array([[60.0, -60.0], [60.0, -60.0]])
    path = np.stack([one, -one, one * [[1], [-1]]]).reshape(3, 4)
    made = Objective(
        Scores(2, 2), torch.zeros(2, 1), torch.zeros(2).long(), F.cross_entropy, check=False
    )
    for kind in ("disagreement", "jensen-shannon"):
        found = function_distances(path, made, distance=kind)
        assert found.functions[0, 1] == pytest.approx(1.0)
        half = 0.5 if kind == "disagreement" else np.sqrt(0.5)
        assert found.functions[0, 2] == pytest.approx(half)
        # Either way points are as far apart as one-hot predictions are, over √2.
        assert found.function_embedding.stress < 1e-6
        sides = found.function_embedding.coordinates
        assert np.linalg.norm(sides[0] - sides[2]) == pytest.approx(np.sqrt(0.5))


def test_outputs_that_are_shares_are_no_logits(path):
    class Soft(nn.Sequential):
        def forward(self, x):
            return super().forward(x).softmax(-1)

    def loss(shares, targets):
        return F.nll_loss(shares.log(), targets)

    made = Objective(Soft(*classifier()), *data(), loss)
    logits = function_distances(path, objective())
    np.testing.assert_allclose(
        function_distances(path, made).functions, logits.functions, rtol=1e-4, atol=1e-6
    )
    assert logits.distance == "jensen-shannon"


def test_several_runs_in_one_picture(path):
    runs = {"a": path[:3], "b": np.concatenate([path[:1], path[3:]])}
    found = function_distances(runs, objective(), states=2)
    assert found.starts == {"a": 0, "b": 2}
    assert found.steps.tolist() == [0, 2, 0, 2]
    assert found.functions[0, 2] == found.weights[0, 2] == 0.0  # of one start
    alone = function_distances(path[[2, 4]], objective())
    assert found.functions[1, 3] == pytest.approx(alone.functions[0, 1], rel=1e-5)
    figure = plot_function_distances(found, title="two seeds")
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["start", "end", "a", "b"]
    assert any(
        "random walks with their step lengths" in t.get_text().replace("\n", " ")
        for t in figure.texts
    )


def test_states_have_the_buffers_that_were_recorded_with_them(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x, y = data()
    outputs = []
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for step in range(3):
            model.train()
            model(x[step : step + 20] + step)
            recorder.record(1.0)
            model.eval()
            outputs.append(model(x).detach().numpy())
    recorded = losspath.Trajectory(tmp_path / "run")
    made = Objective(model, x, y, F.cross_entropy)
    found = function_distances(recorded, made, distance="l2")
    # The weights never changed; the statistics did.
    assert not found.weights.any()
    expected = np.sqrt(np.mean(np.sum((outputs[1] - outputs[2]) ** 2, axis=1)))
    assert found.functions[2, 3] == pytest.approx(expected, rel=1e-4)
    assert found.random_walk is None
    assert "Buffers: those recorded with each state." in plot_function_distances(found).texts[
        0
    ].get_text().replace("\n", " ")


def test_tokens_that_losses_ignore_do_not_count():
    torch.manual_seed(0)
    tokens = torch.randint(7, (6, 5))
    targets = torch.randint(7, (6, 5))
    targets[:, 3:] = -100

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 7)

        def forward(self, tokens):
            return self.table(tokens)

    def loss(outputs, targets):
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def reference(path):
        tables = path.reshape(2, 7, 7)[:, tokens[:, :3].numpy()]
        return np.mean(tables[0].argmax(-1) != tables[1].argmax(-1))

    path = np.random.default_rng(0).standard_normal((2, 49))
    made = Objective(Tokens(), tokens, targets, loss, check=False)
    found = function_distances(path, made, distance="disagreement")
    assert found.functions[0, 1] == pytest.approx(reference(path))
    assert found.provenance["predictions"] == 18


def test_batches_of_any_form_and_losses_that_call_the_model_themselves(path):
    x, y = data()
    batches = [{"x": x[:30], "y": y[:30]}, {"x": x[30:], "y": y[30:]}]
    made = Objective.of_batches(
        classifier(), batches, lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"])
    )
    found = function_distances(path, made, distance="jensen-shannon")
    expected = function_distances(path, objective()).functions
    np.testing.assert_allclose(found.functions, expected, rtol=1e-4, atol=1e-6)
    assert function_distances(path, made).distance == "l2"  # as nobody told what outputs are

    def penalty(model, batch):
        return model[0].weight.square().mean()

    alone = Objective.of_batches(classifier(), batches, penalty, check=False)
    with pytest.raises(UnsupportedError, match=r"the loss has to call the model, or give predict="):
        function_distances(path, alone)


def test_one_column_of_logits_is_made_two():
    x, y = data()
    model = nn.Linear(4, 1)
    made = Objective(model, x, (y[:, None] > 0).float(), F.binary_cross_entropy_with_logits)
    path = np.random.default_rng(0).standard_normal((3, 5))
    with pytest.raises(UnsupportedError, match=r"two or more classes.*\(40, 1\).*predict="):
        function_distances(path, made, distance="disagreement")
    found = function_distances(
        path,
        made,
        distance="disagreement",
        predict=lambda outputs: torch.cat([torch.zeros_like(outputs), outputs], -1),
    )
    sides = path[:, :4] @ x.numpy().T + path[:, 4:] > 0
    assert found.functions[0, 1] == pytest.approx(np.mean(sides[0] != sides[1]))
    with pytest.raises(ArgumentError, match="predict fails on the model's outputs"):
        function_distances(path, made, predict=lambda outputs: outputs.top)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_not_finite_has_no_distance(path, kind):
    broken = path.copy()
    broken[2] = np.nan
    found = function_distances(broken, objective(), distance=kind)
    assert np.isnan(found.functions[2, [0, 1, 3, 4]]).all()
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(
        found.functions[np.ix_(others, others)],
        function_distances(path, objective(), distance=kind).functions[np.ix_(others, others)],
        atol=1e-7,
    )
    assert np.isnan(found.function_embedding.coordinates[2]).all()
    assert np.isfinite(found.function_embedding.coordinates[others]).all()
    assert found.random_walk is None
    assert plot_function_distances(found).axes


def test_memory_is_bounded(path, monkeypatch):
    monkeypatch.setattr(predictions, "_MOST", 5 * 3 * 16)
    found = function_distances(path, objective(batch_size=10), distance="disagreement")
    assert found.provenance["predictions"] == 16  # four of each batch
    monkeypatch.setattr(predictions, "_MOST", 5 * 3)
    with pytest.raises(ArgumentError, match=r"fewer states or samples"):
        function_distances(path, objective(batch_size=10))


def test_what_cannot_be_compared_is_refused(path):
    with pytest.raises(PathError, match="two states or more, got 1"):
        function_distances(path[:1], objective())
    with pytest.raises(ArgumentError, match="distance"):
        function_distances(path, objective(), distance="cosine")


def test_they_are_kept(path, tmp_path):
    told = []
    found = function_distances(
        {"a": path[:2], "b": path[2:]}, objective(), progress=lambda *counts: told.append(counts)
    )
    assert told == [(number, 5) for number in range(1, 6)]
    found.save(tmp_path / "found.npz")
    again = FunctionDistances.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(again.functions, found.functions)
    np.testing.assert_array_equal(again.weights, found.weights)
    assert (again.starts, again.distance) == (found.starts, found.distance)
    assert again.provenance == found.provenance
    other = function_space.function_distances_key(path, objective(), samples=7)
    assert other != function_space.function_distances_key(path, objective())


# -- embeddings --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 12),
    width=st.integers(1, 5),
    seed=st.integers(0, 1000),
    unit=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_points_are_the_principal_components_of_what_has_the_distances(count, width, seed, unit):
    points = unit * np.random.default_rng(seed).standard_normal((count, width))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    found = embed(distances)
    centred = points - points.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    expected = np.zeros((count, 2))
    expected[:, : min(2, len(rows))] = centred @ rows[:2].T
    np.testing.assert_allclose(np.abs(found.coordinates), np.abs(expected), atol=1e-6 * unit)
    if count > 1:
        shares = np.zeros(2)
        shares[: min(2, len(singular))] = singular[:2] ** 2 / np.sum(singular**2)
        np.testing.assert_allclose(found.shares, shares, atol=1e-6)
    if width <= 2:
        assert found.stress < 1e-6


def test_distances_that_fit_into_no_plane_have_stress():
    found = embed(1 - np.eye(4))  # the corners of a tetrahedron
    np.testing.assert_allclose(found.shares, 1 / 3)
    drawn = np.linalg.norm(found.coordinates[:, None] - found.coordinates, axis=-1)
    assert found.stress == pytest.approx(np.sqrt(np.sum((1 - np.eye(4) - drawn) ** 2) / 12))
    assert found.stress > 0.1


def test_states_that_are_all_the_same_are_one_point():
    found = embed(np.zeros((3, 3)))
    np.testing.assert_array_equal(found.coordinates, np.zeros((3, 2)))
    assert found.stress == 0.0
    assert np.isnan(found.shares).all()
    nothing = embed(np.full((2, 2), np.nan))
    assert np.isnan(nothing.coordinates).all()
