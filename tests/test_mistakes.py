"""What people do wrong by mistake: the error, what was expected, what came, and what to do."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath
from contract import Net, make_world, objective_of, of_batches, surface_of, teaches
from losspath import figures, methods
from losspath.errors import (
    ArgumentError,
    ModelError,
    ObjectiveError,
    PathError,
    StoreError,
    WorkerError,
)
from losspath.surface import StateLosses


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def with_nan(it):
    states = it.path[:].copy()
    states[4, 2] = np.nan
    return states


def other_plane(it):
    return losspath.fit_plane(np.random.default_rng(0).standard_normal((6, 4)))


def other_checkpoint(it):
    file = it.home / "points"
    surface_of(it, checkpoint=file)
    surface_of(it, method="averaged", checkpoint=file)


def shut_down(it):
    with ThreadPoolExecutor(1) as pool:
        pass
    surface_of(it, executor=pool)


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        raise KeyError("label")


class Recurrent(nn.Module):
    """Keeps its state where nothing puts it back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self.kept = []
        Recurrent.seen = self.kept

    def forward(self, x):
        Recurrent.seen.append(None)
        return self.layer(x.flatten(1)[:, :8]) * len(Recurrent.seen)


class Vmapped(nn.Linear):
    def forward(self, x):
        return torch.vmap(lambda row: F.linear(row, self.weight) + torch.rand(2))(x.flatten(1))


def column(it):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 1))


LATER = torch.zeros(1000, dtype=torch.long).index_fill(0, torch.tensor([501]), 7)

MISTAKES = {
    # paths
    "a run's name": (lambda it: surface_of(it, str(it.run)), PathError, "Trajectory", "run"),
    "a run's place": (lambda it: losspath.fit_plane(it.run), PathError, "open a run by"),
    "Trajectory itself": (lambda it: surface_of(it, losspath.Trajectory), PathError, "the class"),
    "states of unequal length": (
        lambda it: losspath.fit_plane([np.zeros(4), np.ones(4), np.zeros(3)]),
        PathError,
        "same length",
        "(3,) and (4,)",
    ),
    "one vector": (lambda it: losspath.fit_plane(it.path[0]), PathError, "(T, P)", "row is one"),
    "complex states": (
        lambda it: losspath.step_sizes(it.path[:] * 1j),
        PathError,
        "complex",
        ".view(float)",
    ),
    "whole numbers": (
        lambda it: losspath.fit_plane(np.arange(12).reshape(4, 3)),
        PathError,
        "got int64",
        ".astype(float)",
    ),
    "dicts of states": (lambda it: losspath.fit_plane([it.model.state_dict()]), PathError, "got"),
    "a state that is NaN": (
        lambda it: surface_of(it, with_nan(it)),
        PathError,
        "state 4",
        "path.window(stop=4)",
    ),
    "one state": (lambda it: surface_of(it, it.path[:1]), PathError, "one state", "record"),
    "all states the same": (
        lambda it: surface_of(it, np.ones_like(it.path[:])),
        PathError,
        "the same",
        "learning rate",
    ),
    "another network's path": (
        lambda it: surface_of(it, np.random.default_rng(0).random((4, 7))),
        ModelError,
        "7",
        "38",
    ),
    "no such state": (
        lambda it: losspath.interpolate(it.path, it.objective, 0, 7),
        ArgumentError,
        "no state 7",
        "0 to 6",
    ),
    # planes, grids and methods
    "another network's plane": (
        lambda it: surface_of(it, plane=other_plane(it)),
        ArgumentError,
        "as the plane has",
        "make the plane of this network's states",
    ),
    "a plane of three axes": (
        lambda it: surface_of(it, plane=losspath.fit_plane(it.path, 3)),
        ArgumentError,
        "2 components, got 3",
    ),
    "a grid as an array": (
        lambda it: surface_of(it, grid=it.plane.path.coordinates),
        ArgumentError,
        "Grid",
    ),
    "a grid that goes down": (
        lambda it: losspath.Grid([2.0, 1.0], [0.0, 1.0]),
        ArgumentError,
        "increase",
        "[2.0, 1.0]",
        "sort",
    ),
    "an unknown method": (
        lambda it: surface_of(it, method="average"),
        ArgumentError,
        "averaged-nd",
        "'average'",
    ),
    "a method's class": (
        lambda it: surface_of(it, method=methods.PCA),
        ArgumentError,
        "class",
        "PCA()",
    ),
    "half a line": (lambda it: surface_of(it, resolution=2.5), ArgumentError, "whole", "2.5"),
    "two lines": (lambda it: surface_of(it, resolution=2), ArgumentError, "at least 3", "got 2"),
    "lines below none": (lambda it: surface_of(it, resolution=-3), ArgumentError, "at least 3"),
    "a million lines": (
        lambda it: surface_of(it, resolution=10**6),
        ArgumentError,
        "at most 10,000",
        "1000000",
    ),
    "one dot": (lambda it: surface_of(it, states=1), ArgumentError, "at least 2", "got 1"),
    "losses of another path": (
        lambda it: surface_of(it, states=StateLosses(np.array([0, 99]), np.array([1.0, 2.0]))),
        ArgumentError,
        "7 states",
        "another path",
    ),
    # executors and checkpoints
    "a number of workers": (
        lambda it: surface_of(it, executor=4),
        ArgumentError,
        "executor, got 4",
        "LocalProcesses(4)",
    ),
    "an executor's class": (
        lambda it: surface_of(it, executor=ThreadPoolExecutor),
        ArgumentError,
        "the class ThreadPoolExecutor",
    ),
    "an executor that was shut down": (shut_down, WorkerError, "shut down", "make a new one"),
    "no processes": (lambda it: losspath.LocalProcesses(0), ArgumentError, "at least 1, got 0"),
    "a checkpoint that is a directory": (
        lambda it: surface_of(it, checkpoint=it.home),
        StoreError,
        "cannot write",
        "directory",
    ),
    "another's checkpoint": (other_checkpoint, StoreError, "another computation", "remove it"),
    "a checkpoint that is none": (
        lambda it: surface_of(it, checkpoint=it.file),
        StoreError,
        "damaged",
        "remove it",
    ),
    # files
    "a surface that is a plane": (
        lambda it: losspath.PrincipalPlane.load(it.file),
        StoreError,
        "holds 'surface' and not a plane",
    ),
    "no such file": (
        lambda it: losspath.Surface.load(it.home / "none.npz"),
        StoreError,
        "there is no file",
        "expected a surface",
    ),
    "a directory as a file": (lambda it: losspath.Surface.load(it.home), StoreError, "cannot read"),
    "saving to a directory": (lambda it: it.surface.save(it.home), StoreError, "cannot write"),
    "a figure's format": (
        lambda it: figures.save_figure(losspath.plot_history(it.history), "a.gif"),
        ArgumentError,
        ".png, .pdf or .svg",
        "a.gif",
    ),
    # models, objectives, data and losses
    "a model for an objective": (
        lambda it: surface_of(it, objective=it.model),
        ArgumentError,
        "an Objective, got a Net",
        "Objective(model, inputs, targets, loss_fn)",
    ),
    "a model where its directory goes": (
        lambda it: losspath.Recorder(it.model, it.home / "swapped"),
        ArgumentError,
        "directory as the name of a file, got a Net, which is a model",
        "swapped",
        "Recorder(directory, model)",
    ),
    "a directory where the model goes": (
        lambda it: losspath.Recorder(it.home / "new", "net.pt"),
        ArgumentError,
        "model as a torch.nn.Module, got 'net.pt'",
    ),
    "an objective for a model": (
        lambda it: objective_of(it, it.objective),
        ArgumentError,
        "torch.nn.Module, got an Objective",
    ),
    "a surface for an objective": (
        lambda it: losspath.measure_dynamics(it.path, it.surface),
        ArgumentError,
        "an Objective, got a Surface",
    ),
    "a class for a model": (lambda it: objective_of(it, Net), ArgumentError, "the class Net"),
    "a model without numbers": (
        lambda it: objective_of(it, nn.Linear(16, 2, device="meta")),
        ModelError,
        "meta",
        "to_empty",
    ),
    "a model without parameters": (lambda it: objective_of(it, nn.ReLU()), ModelError, "with 0"),
    "a model without sizes": (
        lambda it: objective_of(it, nn.LazyLinear(2)),
        ModelError,
        "run one batch",
    ),
    "data without numbers": (
        lambda it: objective_of(it, inputs=it.x.to("meta")),
        ObjectiveError,
        "meta",
        "real device",
    ),
    "a loader for inputs": (
        lambda it: objective_of(it, inputs=torch.utils.data.DataLoader([1])),
        ArgumentError,
        "got a DataLoader",
        "of_batches",
    ),
    "a list of tensors": (
        lambda it: objective_of(it, inputs=list(it.x)),
        ArgumentError,
        "got a list of 12",
        "torch.stack",
    ),
    "fewer targets": (
        lambda it: objective_of(it, targets=it.y[:5]),
        ObjectiveError,
        "as many targets as inputs, got 5",
        "of_batches",
    ),
    "inputs of another width": (
        lambda it: objective_of(it, inputs=it.x[..., :2]),
        ObjectiveError,
        "(12, 1, 4, 2) float32",
        "expected what one step",
    ),
    "a class for a loss": (
        lambda it: objective_of(it, loss_fn=nn.CrossEntropyLoss),
        ArgumentError,
        "the class CrossEntropyLoss",
        "CrossEntropyLoss()",
    ),
    "a loss already computed": (
        lambda it: objective_of(it, loss_fn=F.cross_entropy(it.model(it.x), it.y)),
        ArgumentError,
        "got a tensor",
        "the function itself",
    ),
    "a loss for each sample": (
        lambda it: objective_of(it, loss_fn=nn.CrossEntropyLoss(reduction="none")),
        ObjectiveError,
        "tensor of shape (12,)",
        "take its mean",
    ),
    "a loss that returns nothing": (
        lambda it: objective_of(it, loss_fn=lambda outputs, targets: None),
        ObjectiveError,
        "one mean or a pair (sum, weight), got NoneType",
    ),
    "a sum for a mean": (
        lambda it: objective_of(it, loss_fn=nn.CrossEntropyLoss(reduction="sum")),
        ObjectiveError,
        "use a mean, or return (sum, weight)",
    ),
    "columns against rows": (
        lambda it: objective_of(it, column(it), targets=it.y.float(), loss_fn=F.mse_loss),
        ObjectiveError,
        "(12, 1) and targets of shape (12,)",
        "squeeze(1)",
    ),
    "classes that there are not": (
        lambda it: objective_of(it, targets=it.y + 5),
        ObjectiveError,
        "IndexError: Target",
        "expected what one step",
    ),
    "one class that there is not": (
        lambda it: surface_of(
            it,
            objective=objective_of(it, inputs=torch.randn(1000, 1, 4, 4), targets=LATER),
        ),
        ObjectiveError,
        "IndexError: Target 7",
        "(250, 1, 4, 4)",
    ),
    "a metric that fails": (
        lambda it: objective_of(it, metrics={"top": lambda outputs, targets: outputs.top}),
        ObjectiveError,
        "AttributeError",
        "top",
    ),
    "a last function that fails": (
        lambda it: objective_of(it, metrics={"top": (F.cross_entropy, lambda mean: 1 / 0)})(
            it.path[0]
        ),
        ObjectiveError,
        "metric top",
        "ZeroDivisionError",
    ),
    "metrics without names": (
        lambda it: objective_of(it, metrics=[F.cross_entropy]),
        ArgumentError,
        "dict by names",
    ),
    "a network that keeps something": (
        lambda it: objective_of(it, Recurrent()),
        ObjectiveError,
        "hidden state",
        "reset it in forward()",
    ),
    "a random number in torch.func's vmap": (
        lambda it: objective_of(it, Vmapped(16, 2)),
        ObjectiveError,
        "vmap",
        "expected what one step",
    ),
    "no batch": (lambda it: of_batches(it, []), ObjectiveError, "at least one batch, got none"),
    "a batch for batches": (
        lambda it: of_batches(it, {"x": it.x}),
        ArgumentError,
        "got dict",
        "into a list",
    ),
    "inputs for batches": (lambda it: of_batches(it, it.x), ArgumentError, "Objective(model"),
    "a data set that fails": (
        lambda it: of_batches(it, Broken()),
        ObjectiveError,
        "KeyError: 'label'",
        "mend the data set",
    ),
    "a loss of outputs for one of a model": (
        lambda it: of_batches(it, [(it.x, it.y)], F.cross_entropy),
        ObjectiveError,
        "fails on the data",
    ),
    "a vector of another model": (
        lambda it: it.objective(np.zeros(5)),
        ModelError,
        "a vector of 38 parameters, got shape (5,)",
    ),
    # analysis
    "no such layer": (
        lambda it: losspath.activations(it.path, it.objective, modules=["convolution"]),
        ArgumentError,
        "conv, relu, head, got 'convolution'",
    ),
    "one layer as text": (
        lambda it: losspath.activations(it.path, it.objective, modules="conv"),
        ArgumentError,
        "list of texts, got 'conv'",
    ),
    "no such sample": (
        lambda it: losspath.saliency(it.objective, it.path[-1], [12]),
        ArgumentError,
        "0 to 11, got [12]",
    ),
    "a sample for samples": (
        lambda it: losspath.saliency(it.objective, it.path[-1], 3),
        ArgumentError,
        "list of whole numbers, got 3",
    ),
    "labels for other classes": (
        lambda it: losspath.confusion(it.objective, it.path[-1], ["a"]),
        ArgumentError,
        "2 labels",
        "got 1",
    ),
    "answers that fail": (
        lambda it: losspath.confusion(it.objective, it.path[-1], predict=lambda out: out.top),
        ArgumentError,
        "predict fails",
        "a class for each target",
    ),
    "surfaces of other places": (
        lambda it: losspath.compare_surfaces(
            it.surface, dataclasses.replace(it.surface, x=it.surface.x + 1e6)
        ),
        ArgumentError,
        "no ground in common",
        "one plane",
    ),
    "a schedule in its middle": (
        lambda it: losspath.StepSizeLR(torch.optim.SGD(it.model.parameters(), 0.1), [1.0], 5),
        ArgumentError,
        "last_epoch is 5",
        "last_epoch=-1",
    ),
    "a schedule of a model": (
        lambda it: losspath.StepSizeLR(it.model, [1.0]),
        ArgumentError,
        "torch.optim.Optimizer, got a Net",
    ),
    # figures
    "a file for a surface": (
        lambda it: losspath.plot_surface(str(it.file)),
        ArgumentError,
        "a Surface to draw",
        "Surface.load(path)",
    ),
    "one surface for several": (
        lambda it: losspath.plot_surfaces(it.surface),
        ArgumentError,
        "in a list, got a Surface",
    ),
    "titles for fewer": (
        lambda it: losspath.plot_surfaces([it.surface, it.surface], titles=["a"]),
        ArgumentError,
        "each of 2 surfaces, got 1",
    ),
    "runs without names": (
        lambda it: losspath.plot_runs([it.runs]),
        ArgumentError,
        "dict by names, got a list of 1",
    ),
    "a run that is no list": (
        lambda it: losspath.plot_runs({"a": it.runs}),
        ArgumentError,
        "at least one run as 'a'",
        "in a list, got a RunCurves",
    ),
    "numbers for images": (
        lambda it: losspath.plot_samples(np.zeros((3, 8)), np.zeros(3, int)),
        ArgumentError,
        "images (N, 1 or 3, H, W) to draw, got (3, 8)",
    ),
    "a rate of nothing": (
        lambda it: losspath.plot_dynamics(it.dynamics, rate=0.0),
        ArgumentError,
        "rate as a finite number > 0, got 0.0",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(world, mistake):
    make, kind, *says = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        make(world)
    assert teaches(caught.value), caught.value
    for words in says:
        assert words in str(caught.value)


def test_a_loader_and_a_function_without_targets_name_the_other_way(world):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(world.x, world.y))
    with pytest.raises(ArgumentError, match=r"Objective\.of_batches\(model, batches, loss\)"):
        losspath.Objective(world.model, loader, F.cross_entropy)
