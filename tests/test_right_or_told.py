"""What is no mistake is right, or the error says what is in the way."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath
from contract import make_world, objective_of, of_batches, record, surface_of
from losspath.errors import ArgumentError, ObjectiveError, UnsupportedError
from losspath.surface import StateLosses


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_what_can_be_meant_in_one_way_alone_is_taken(world):
    whole = surface_of(world)
    for options in ({"resolution": 3.0}, {"resolution": np.int64(3)}, {"states": 2.0}):
        np.testing.assert_array_equal(surface_of(world, **options).loss, whole.loss)
    plain = losspath.step_sizes(world.path[:])
    for states in (list(world.path[:]), [torch.tensor(s, requires_grad=True) for s in world.path]):
        np.testing.assert_array_equal(losspath.step_sizes(states).sizes, plain.sizes)
    loss = world.objective(world.path[0]).loss
    vector = torch.nn.Parameter(torch.tensor(world.path[0]))
    assert world.objective(vector).loss == world.objective(world.path[0].tolist()).loss == loss


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_double_precision_for_a_model_of_single(world, make):
    x, y = make(world.x.double().numpy()), make(world.y.numpy())
    plain = world.objective(world.path[0]).loss
    assert objective_of(world, inputs=x, targets=y)(world.path[0]).loss == pytest.approx(plain)
    assert of_batches(world, [(x, y)])(world.path[0]).loss == pytest.approx(plain)


class Pinn(nn.Module):
    """u' + u, whose forward pass needs gradients."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, t):
        t = t.detach().requires_grad_()
        u = self.body(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return u + slope


class Functional(Pinn):
    """The same by torch.func."""

    def forward(self, t):
        slope = torch.vmap(torch.func.jacrev(lambda point: self.body(point).sum()))(t)
        return self.body(t) + slope


@pytest.mark.parametrize("kind", [Pinn, Functional])
def test_a_forward_pass_that_needs_gradients(tmp_path, kind):
    torch.manual_seed(0)
    t, zero = torch.linspace(0, 1, 20)[:, None], torch.zeros(20, 1)
    model = kind()
    path = record(tmp_path / "run", model, t, zero, F.mse_loss, rate=0.05)
    objective = losspath.Objective(model, t, zero, F.mse_loss)
    surface = losspath.compute_surface(path, objective, "pca", 3, states=3)
    known = surface.states.index[:-1]
    np.testing.assert_allclose(surface.states.loss[:-1], path.losses[known], rtol=1e-5)
    dynamics = losspath.measure_dynamics(path, objective, 2)
    path.load_into(model, 0)
    flat = torch.cat([p.reshape(-1) for p in model.parameters()]).detach()

    def loss(vector):
        parts = dict(
            zip(
                [name for name, _ in model.named_parameters()],
                vector.split([p.numel() for p in model.parameters()]),
                strict=True,
            )
        )
        shaped = {n: parts[n].view(p.shape) for n, p in model.named_parameters()}
        return F.mse_loss(torch.func.functional_call(model, shaped, (t,)), zero)

    expected = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1]
    assert dynamics.sharpness[0] == pytest.approx(float(expected), rel=0.02)


def test_data_parallel_is_the_network_in_it(tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(20, 8), torch.arange(20) % 2
    inner = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    model = nn.DataParallel(inner)
    path = record(tmp_path / "run", model, x, y, F.cross_entropy)
    wrapped = losspath.Objective(model, x, y, F.cross_entropy)
    plain = losspath.Objective(inner, x, y, F.cross_entropy)
    assert wrapped(path[0]).loss == pytest.approx(path.losses[0], rel=1e-5)
    one, other = (losspath.measure_dynamics(path, each, 2) for each in (wrapped, plain))
    np.testing.assert_allclose(one.sharpness, other.sharpness)
    np.testing.assert_allclose(
        surface_of(None, path, wrapped).loss, surface_of(None, path, plain).loss, rtol=1e-6
    )


def test_recorder_and_objective_under_inference_mode(tmp_path):
    x, y = torch.randn(20, 8), torch.arange(20) % 2
    with torch.inference_mode():
        model = nn.Linear(8, 2)
        with losspath.Recorder(tmp_path / "run", model) as recorder:
            for _ in range(3):
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
                recorder.record(F.cross_entropy(model(x), y))
        path = losspath.Trajectory(tmp_path / "run")
        objective = losspath.Objective(model, x, y, F.cross_entropy)
        inside = surface_of(None, path, objective).loss
    assert objective(path[-1]).loss == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-5)
    np.testing.assert_array_equal(surface_of(None, path, objective).loss, inside)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("loss", [lambda o, t: F.cross_entropy(o, t).item(), nn.CrossEntropyLoss()])
def test_a_loss_that_returns_a_float_has_a_surface_and_no_dynamics(world, loss):
    objective = objective_of(world, loss_fn=loss)
    np.testing.assert_allclose(
        surface_of(world, objective=objective).loss, world.surface.loss, rtol=1e-6
    )
    if isinstance(loss, nn.Module):
        assert losspath.measure_dynamics(world.path, objective, 2).sharpness[0] > 0
        return
    with pytest.raises(ObjectiveError, match=r"a tensor, got a float; return it without \.item"):
        losspath.measure_dynamics(world.path, objective, 2)


def test_a_layer_without_a_second_derivative_is_named(tmp_path):
    torch.manual_seed(0)
    single = torch.ones(2)  # weights of classes, of single precision
    loss = nn.CrossEntropyLoss(single, reduction="sum")
    ids, y = torch.randint(0, 9, (20, 3)), torch.arange(20) % 2
    model = nn.Sequential(nn.EmbeddingBag(9, 4, mode="mean"), nn.Tanh(), nn.Linear(4, 2))
    path = record(tmp_path / "run", model, ids, y, F.cross_entropy)
    objective = losspath.Objective(model, ids, y, lambda out, to: (loss(out, to), len(to)))
    with pytest.raises(UnsupportedError, match=r"0 \(EmbeddingBag\).*leave that layer out"):
        losspath.measure_dynamics(path, objective, 2)


def line_of(kept):
    evaluated = np.zeros((5, 5), bool)
    evaluated[kept] = True
    axis, path = np.arange(5.0), np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 2.0]])
    loss = np.where(evaluated, np.arange(25.0).reshape(5, 5), np.nan)
    states, shares = StateLosses(np.array([0, 2]), np.array([1.0, 2.0])), np.array([0.9, 0.1])
    return losspath.Surface(axis, axis, loss, None, evaluated, path, shares, states, {})


@pytest.mark.parametrize(
    "kept",
    [(0,), (slice(None), 0), (range(5), range(5)), (range(5), range(4, -1, -1)), (2, 2), ([], [])],
    ids=["a row", "a column", "diagonal", "other diagonal", "one", "none"],
)
def test_points_on_a_line_have_no_ground_between_them(kept):
    surface = line_of(kept)
    assert np.isnan(surface.at([[1.0, 1.0], [2.5, 0.5]])).all()
    assert np.isnan(surface.state_errors).all()
    assert losspath.plot_surface(surface).axes
    assert losspath.plot_surfaces([surface, surface]).axes
    with pytest.raises(ArgumentError, match=r"no point in common.*compute more of them"):
        losspath.compare_surfaces(surface, surface)


@pytest.mark.parametrize("axes", [([0.0], np.arange(3.0)), (np.arange(3.0), [0.0]), ([0.0], [0.0])])
def test_a_grid_of_one_line_is_evaluated_and_not_drawn(world, axes):
    surface = surface_of(world, grid=losspath.Grid(*axes))
    assert np.isfinite(surface.loss).all()
    for use in (losspath.plot_surface, lambda surface: surface.at([[0.0, 0.0]])):
        with pytest.raises(ArgumentError, match=r"at least two lines|2 × 2 points or more"):
            use(surface)


PROGRAM = """
import sys, torch, losspath, numpy as np
from torch.nn.functional import cross_entropy

class Own(torch.nn.Linear):
    pass

def draw(kind):
    torch.manual_seed(0)
    objective = losspath.Objective(
        kind(4, 2), torch.randn(9, 4), torch.arange(9) % 2, cross_entropy)
    path = np.random.default_rng(0).random((4, 10))
    with losspath.LocalProcesses(1, 1) as processes:
        found = losspath.compute_surface(path, objective, "pca", 3, states=2, executor=processes)
    print("drawn", found.loss.size)
"""


def run_program(*arguments, given=None):
    done = subprocess.run(
        [sys.executable, *arguments], input=given, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr.strip().rpartition("\n")[2]


@pytest.mark.slow
def test_processes_of_a_program_from_standard_input():
    guarded = "if __name__ == '__main__':\n    draw({})\n"
    assert "drawn 9" in run_program("-", given=PROGRAM + guarded.format("torch.nn.Linear"))
    told = run_program("-", given=PROGRAM + guarded.format("Own"))
    assert "WorkerError: expected the model, the data and the loss from modules, but Own is" in told
    assert "put it into a file and import it" in told


@pytest.mark.slow
def test_processes_of_a_program_on_the_command_line():
    told = run_program("-c", PROGRAM + "draw(Own)")
    assert "but Own is defined in the main program" in told


@pytest.mark.slow
def test_a_program_that_does_not_keep_its_work_from_its_processes(tmp_path):
    (tmp_path / "program.py").write_text(
        PROGRAM + "import losspath.surface.workers as w\nw._RESTARTS = 0\ndraw(torch.nn.Linear)\n"
    )
    told = run_program(str(tmp_path / "program.py"))
    assert "WorkerError: a worker process was lost" in told
    assert 'if __name__ == "__main__":' in told
