import copy
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import (
    Interpolation,
    Objective,
    Recorder,
    Trajectory,
    interpolate,
    plot_interpolation,
)
from losspath.analysis.interpolation import default_alphas
from losspath.errors import ArgumentError, BusyError, DamagedError, ModelError, StoreError


class Nested(nn.Module):
    """Has layers in layers, a parameter of the root's own, and one layer without parameters."""

    def __init__(self):
        super().__init__()
        inner = OrderedDict(first=nn.Linear(5, 6), norm=nn.BatchNorm1d(6), act=nn.Tanh())
        self.block = nn.Sequential(inner)
        self.head = nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.head(self.block(x)) * self.scale


class Counted(Objective):
    """Counts its evaluations, and can fail at one."""

    def __init__(self, *arguments, **options):
        self.seen = []  # shared by those that are made of it
        self.fail_at = None
        super().__init__(*arguments, **options)
        self.seen.clear()

    @property
    def calls(self):
        return len(self.seen)

    def fingerprint(self, *arguments):
        fail_at, self.fail_at, before = self.fail_at, None, self.calls
        found = super().fingerprint(*arguments)
        self.fail_at = fail_at
        del self.seen[before:]
        return found

    def evaluation_of(self, counts):
        self.seen.append(1)
        if self.calls == self.fail_at:
            raise ZeroDivisionError
        return super().evaluation_of(counts)


LAYERS = ("(root)", "block.first", "block.norm", "head")


@pytest.fixture
def data():
    torch.manual_seed(0)
    return torch.randn(30, 5), torch.randint(3, (30,))


@pytest.fixture
def recorded(tmp_path, data):
    """The model after a short training, and its path of seven states."""
    torch.manual_seed(1)
    model = Nested()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with Recorder(tmp_path / "run", model) as recorder:
        for _ in range(6):
            loss = F.cross_entropy(model(data[0]), data[1])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.record(loss)
    return model, Trajectory(tmp_path / "run")


@pytest.fixture
def objective(recorded, data):
    # The model's own statistics at every point, as for `objective(path[i])`.
    return Counted(recorded[0], *data, F.cross_entropy, buffers="model")


def test_the_ends_are_exactly_the_two_states(recorded, objective):
    path = recorded[1]
    curves = interpolate(path, objective)
    ends = [int(np.flatnonzero(curves.alpha == alpha)[0]) for alpha in (0, 1)]
    for column, state in zip(ends, (path[0], path[-1]), strict=True):
        evaluation = objective(state)
        assert curves.loss[0, column] == evaluation.loss
        assert curves.accuracy[0, column] == evaluation.accuracy


def test_every_layer_ends_in_the_final_state(recorded, objective):
    curves = interpolate(recorded[1], objective)
    column = int(np.flatnonzero(curves.alpha == 1)[0])
    assert set(curves.loss[:, column]) == {objective(recorded[1][-1]).loss}
    assert set(curves.accuracy[:, column]) == {objective(recorded[1][-1]).accuracy}


def test_default_positions():
    alphas = default_alphas()
    np.testing.assert_allclose(alphas, np.arange(-1, 12) / 10, atol=1e-12)
    assert len(alphas) == 13
    for count in (2, 3, 5, 8, 13, 25, 100):
        alphas = default_alphas(count)
        assert 0.0 in alphas
        assert 1.0 in alphas
        assert (alphas[0], alphas[-1]) == (-0.1, 1.1)
        assert (np.diff(alphas) > 1e-6).all()
        assert count <= len(alphas) <= count + 2
    with pytest.raises(ArgumentError, match="at least 2"):
        default_alphas(1)


def test_a_quadratic_loss_gives_its_parabola():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 7)), rng.standard_normal((40, 1))
    model = nn.Linear(7, 1, bias=False).double()
    objective = Objective(model, x, y, F.mse_loss, batch_size=9)
    path = rng.standard_normal((4, 7))
    alphas = np.linspace(-2, 3, 24)
    curves = interpolate(path, objective, alphas=alphas)
    start, step = x @ path[0] - y[:, 0], x @ (path[3] - path[0])
    parabola = np.mean(start**2) + 2 * alphas * np.mean(start * step) + alphas**2 * np.mean(step**2)
    np.testing.assert_allclose(curves.loss[0], parabola, rtol=1e-12)
    np.testing.assert_array_equal(curves.loss[0], curves.loss[1])  # the model is its only layer
    assert curves.accuracy is None


@pytest.mark.parametrize(("start", "end"), [(0, -1), (2, 4), (-2, 1)])
def test_curves_equal_a_naive_loop(recorded, objective, data, start, end):
    model, path = recorded
    curves = interpolate(path, objective, start, end)
    assert curves.names == ("whole model", *LAYERS)
    assert curves.loss.shape == curves.accuracy.shape == (5, 13)
    first, last = copy.deepcopy(model), copy.deepcopy(model)
    path.load_into(first, start)
    path.load_into(last, end)
    for row, name in enumerate(curves.names):
        for column, alpha in enumerate(curves.alpha):
            mixed = copy.deepcopy(last).eval()
            for layer, module in mixed.named_modules():
                if name not in ("whole model", layer or "(root)"):
                    continue
                for key, parameter in module.named_parameters(recurse=False):
                    a = first.get_submodule(layer).get_parameter(key).double()
                    b = last.get_submodule(layer).get_parameter(key).double()
                    with torch.no_grad():
                        parameter.copy_((1 - alpha) * a + alpha * b)
            outputs = mixed(data[0])
            loss = F.cross_entropy(outputs, data[1]).item()
            assert curves.loss[row, column] == pytest.approx(loss, rel=1e-5)
            right = (outputs.argmax(dim=1) == data[1]).double().mean().item()
            assert curves.accuracy[row, column] == right


def test_indices_from_the_end_are_the_same_states(recorded, objective):
    path = recorded[1]
    one = interpolate(path, objective, 2, 5, layers=False)
    two = interpolate(path, objective, -5, -2, layers=False)
    np.testing.assert_array_equal(one.loss, two.loss)
    assert (one.provenance["from"], one.provenance["to"]) == (2, 5)
    assert one.provenance == two.provenance


def test_without_layers_there_is_the_whole_model_alone(recorded, objective):
    whole = interpolate(recorded[1], objective, layers=False)
    assert whole.names == ("whole model",)
    assert objective.calls <= 13
    np.testing.assert_array_equal(whole.loss[0], interpolate(recorded[1], objective).loss[0])


def test_arrays_and_windows_are_paths_too(recorded, objective):
    path = recorded[1]
    curves = interpolate(path, objective)
    for other in (path[:], torch.from_numpy(path[:]), path.window()):
        np.testing.assert_array_equal(interpolate(other, objective).loss, curves.loss)
    window = interpolate(path.window(2, 5), objective)
    np.testing.assert_array_equal(window.loss, interpolate(path, objective, 2, 4).loss)


def test_a_line_from_a_state_to_itself_is_refused(recorded, objective):
    path = recorded[1]
    with pytest.raises(ArgumentError, match="expected two states, got state 3 for both"):
        interpolate(path, objective, 3, 3)
    with pytest.raises(ArgumentError, match="the line between would be flat"):
        interpolate(path, objective, -1, len(path) - 1)


def test_a_path_that_diverged_still_has_its_start(recorded, objective):
    states = recorded[1][:]
    states[-1] = np.nan
    curves = interpolate(states, objective, alphas=[0, 0.5, 1], layers=False)
    assert curves.loss[0, 0] == objective(states[0]).loss
    assert np.isnan(curves.loss[0, 1:]).all()


def test_progress_counts_every_point(recorded, objective):
    told = []
    interpolate(recorded[1], objective, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 65) for done in range(1, 66)]


@pytest.mark.parametrize("fail_at", [1, 2, 14, 40, 61])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(tmp_path, recorded, objective, fail_at):
    whole = interpolate(recorded[1], objective)
    objective.seen.clear()
    objective.fail_at = fail_at
    with pytest.raises(ZeroDivisionError):
        interpolate(recorded[1], objective, checkpoint=tmp_path / "journal")
    objective.seen.clear()
    objective.fail_at = None
    again = interpolate(recorded[1], objective, checkpoint=tmp_path / "journal")
    # The second state is where every curve ends: it is evaluated once in a call.
    left = 61 - (fail_at - 1)
    assert left <= objective.calls <= left + 1
    assert again.loss.tobytes() == whole.loss.tobytes()
    assert again.accuracy.tobytes() == whole.accuracy.tobytes()
    assert again.provenance == whole.provenance
    objective.seen.clear()
    interpolate(recorded[1], objective, checkpoint=tmp_path / "journal")
    assert objective.calls == 0


def test_a_checkpoint_of_another_computation_is_refused(tmp_path, recorded, objective, data):
    model, path = recorded
    checkpoint = tmp_path / "journal"
    interpolate(path, objective, checkpoint=checkpoint)
    x, y = data
    others = [
        lambda: interpolate(path, objective, 1, checkpoint=checkpoint),
        lambda: interpolate(path, objective, 0, -2, checkpoint=checkpoint),
        lambda: interpolate(path, objective, alphas=[0, 1], checkpoint=checkpoint),
        lambda: interpolate(path, objective, layers=False, checkpoint=checkpoint),
        lambda: interpolate(path.window(0, 6), objective, checkpoint=checkpoint),
        lambda: interpolate(
            path, Objective(model, x, y.flip(0), F.cross_entropy), checkpoint=checkpoint
        ),
        lambda: interpolate(
            path, Objective(model, x, y, F.multi_margin_loss), checkpoint=checkpoint
        ),
        lambda: interpolate(
            path, Objective(model, x, y, F.cross_entropy, batch_size=7), checkpoint=checkpoint
        ),
    ]
    for other in others:
        with pytest.raises(StoreError, match="another computation"):
            other()


@pytest.mark.filterwarnings("ignore:the objective's model has another")
def test_a_checkpoint_made_with_other_buffers_is_refused(tmp_path, recorded, objective):
    # The running statistics have their part in every loss.
    model, path = recorded
    interpolate(path, objective, checkpoint=tmp_path / "journal")
    model.block.norm.running_mean += 1
    with pytest.raises(StoreError, match="another computation"):
        interpolate(path, objective, checkpoint=tmp_path / "journal")


def test_a_checkpoint_of_a_namesake_is_refused(tmp_path, recorded, objective, data):
    # Neither names nor shapes tell these from the objective.
    model, path = recorded
    interpolate(path, objective, checkpoint=tmp_path / "journal")

    def cross_entropy(outputs, targets):
        return F.cross_entropy(outputs, targets, label_smoothing=0.1)

    other = copy.deepcopy(model)
    other.block.act = nn.ReLU()
    for namesake in (
        Objective(model, *data, cross_entropy),
        Objective(other, *data, F.cross_entropy),
    ):
        assert namesake.name == objective.name
        assert namesake.layout == objective.layout
        with pytest.raises(StoreError, match="another computation"):
            interpolate(path, namesake, checkpoint=tmp_path / "journal")


def test_a_damaged_checkpoint_is_refused(tmp_path, recorded, objective):
    checkpoint = tmp_path / "journal"
    interpolate(recorded[1], objective, checkpoint=checkpoint)
    lines = checkpoint.read_bytes().splitlines(keepends=True)
    checkpoint.write_bytes(b"".join([*lines[:5], b"x" + lines[5][1:], *lines[6:]]))
    with pytest.raises(DamagedError):
        interpolate(recorded[1], objective, checkpoint=checkpoint)


def test_a_checkpoint_in_use_is_refused(tmp_path, recorded, objective):
    checkpoint = tmp_path / "journal"

    def begin_another(done, total):
        with pytest.raises(BusyError):
            interpolate(recorded[1], objective, checkpoint=checkpoint)

    interpolate(
        recorded[1],
        objective,
        alphas=[0, 1],
        layers=False,
        checkpoint=checkpoint,
        progress=begin_another,
    )


@pytest.mark.parametrize("accuracies", [True, False])
def test_save_and_load(tmp_path, recorded, data, accuracies):
    model, path = recorded
    x, y = data
    targets = y if accuracies else F.one_hot(y, 3).float()
    loss_fn = F.cross_entropy if accuracies else F.mse_loss
    curves = interpolate(path, Objective(model, x, targets, loss_fn), alphas=[0, 0.3, 1])
    curves.loss[2, 1], curves.loss[1, 0] = np.nan, np.inf
    curves.save(tmp_path / "curves.npz")
    again = Interpolation.load(tmp_path / "curves.npz")
    for name in ("alpha", "loss"):
        np.testing.assert_array_equal(getattr(again, name), getattr(curves, name))
    assert again.names == curves.names
    assert again.provenance == json.loads(json.dumps(curves.provenance)) == curves.provenance
    if accuracies:
        np.testing.assert_array_equal(again.accuracy, curves.accuracy)
    else:
        assert again.accuracy is None is curves.accuracy
    with np.load(tmp_path / "curves.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["loss"], curves.loss)


def test_what_is_no_saved_interpolation_is_refused(tmp_path, recorded, objective):
    with pytest.raises(StoreError, match="there is no file"):
        Interpolation.load(tmp_path / "missing.npz")
    curves = interpolate(recorded[1], objective, alphas=[0, 1], layers=False)
    file = tmp_path / "curves.npz"
    curves.save(file)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(StoreError):
        Interpolation.load(file)


@pytest.mark.parametrize(("start", "end"), [(7, -1), (0, 7), (-8, -1), (0, -8)])
def test_a_state_that_is_not_there(recorded, objective, start, end):
    with pytest.raises(ArgumentError, match=r"no state -?[78] in a path of 7 states"):
        interpolate(recorded[1], objective, start, end)
    assert objective.calls == 0


@pytest.mark.parametrize("alphas", [[0.5], [], [0, np.nan], [0, np.inf], [[0, 1], [0, 1]], 0.5])
def test_positions_that_make_no_line(recorded, objective, alphas):
    with pytest.raises(ArgumentError, match="at least two finite numbers"):
        interpolate(recorded[1], objective, alphas=alphas)
    assert objective.calls == 0


def test_a_model_of_another_network(recorded, data):
    path = recorded[1]
    with pytest.raises(ModelError, match="not of the same network"):
        interpolate(path, Objective(nn.Linear(5, 3), *data, F.cross_entropy))
    with pytest.raises(ModelError, match="states of 72 numbers, the objective's model 18 param"):
        interpolate(path[:], Objective(nn.Linear(5, 3), *data, F.cross_entropy))


def make_curves(alpha, loss):
    names = ("whole model", "one", "two")
    return Interpolation(np.array(alpha), names, np.array(loss, float), None, {})


def test_a_layers_share_is_what_is_lost_if_it_goes_back():
    curves = make_curves([0.0, 0.5, 1.0], [[5, 3, 1], [3, 2, 1], [6, 2, 1]])
    assert curves.shares == {"one": 0.5, "two": 1.25}


@pytest.mark.parametrize(
    ("alpha", "loss"),
    [
        ([0.1, 0.5, 1.0], [[5, 3, 1], [3, 2, 1], [6, 2, 1]]),
        ([0.0, 0.5, 0.9], [[5, 3, 1], [3, 2, 1], [6, 2, 1]]),
        ([0.0, 0.5, 1.0], [[1, 3, 1], [3, 2, 1], [6, 2, 1]]),
        ([0.0, 0.5, 1.0], [[np.nan, 3, 1], [3, 2, 1], [6, 2, 1]]),
    ],
)
def test_without_a_drop_or_its_ends_there_are_no_shares(alpha, loss):
    assert list(np.isnan(list(make_curves(alpha, loss).shares.values()))) == [True, True]


def test_shares_of_a_recorded_run(recorded, objective):
    path = recorded[1]
    shares = interpolate(path, objective).shares
    assert tuple(shares) == LAYERS
    first, last = path[0], path[-1]
    mixed = last.copy()
    entries = objective.layout.layers["head"]
    for entry in entries:
        mixed[entry.place] = first[entry.place]
    drop = objective(first).loss - objective(last).loss
    expected = (objective(mixed).loss - objective(last).loss) / drop
    assert shares["head"] == pytest.approx(expected, rel=1e-4)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mid, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.mid(self.embed(x)))).mean(1)


class Twice(nn.Module):
    """Holds one module under two names, and tied tensors that are frozen."""

    def __init__(self):
        super().__init__()
        self.module = nn.ModuleDict({"encoder": Tied()})
        self.decoder = self.module["encoder"].mid
        self.module["encoder"].embed.weight.requires_grad_(False)

    def forward(self, x):
        return self.module["encoder"](x) + self.decoder(torch.ones(4)).sum()


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        (Tied, ["shared: head.weight counts as embed.weight"]),
        (
            Twice,
            [
                "shared: decoder.weight counts as module.encoder.mid.weight, "
                "decoder.bias counts as module.encoder.mid.bias"
            ],
        ),
    ],
)
def test_parameters_of_several_names_are_said_to_count_under_the_first(kind, note):
    torch.manual_seed(0)
    model, x, y = kind(), torch.randint(7, (20, 3)), torch.randint(7, (20,))
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    states, objective = torch.randn(3, count).numpy(), Objective(model, x, y, F.cross_entropy)
    found = interpolate(states, objective, 0, 2)
    assert found.provenance["notes"] == note
    assert interpolate(states, objective, 0, 2, layers=False).provenance["notes"] == []
    caption = " ".join(text.get_text() for text in plot_interpolation(found).texts)
    assert note[0][1:] in caption.replace("\n", " ")


def test_a_layer_whose_weight_is_another_ones_has_its_bias_alone():
    torch.manual_seed(0)
    model, x, y = Tied(), torch.randint(7, (20, 3)), torch.randint(7, (20,))
    objective = Objective(model, x, y, F.cross_entropy)
    states = torch.randn(3, sum(p.numel() for p in model.parameters())).numpy()
    found = interpolate(states, objective, 0, 2)
    alone = found.loss[found.names.index("head")]
    states[2][-7:] = states[0][-7:]
    again = interpolate(states, objective, 0, 2)
    start, end = (found.alpha.tolist().index(alpha) for alpha in (0.0, 1.0))
    np.testing.assert_allclose(again.loss[0, end], alone[start], rtol=1e-5)
