"""Named numbers that were recorded are drawn beside step sizes."""

import numpy as np
import pytest
import torch

from losspath import Recorder, RunCurves, Trajectory, plot_runs, plot_step_sizes, step_sizes
from losspath.analysis.runs import binned_series
from losspath.errors import ArgumentError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model, directory = torch.nn.Linear(2, 1), tmp_path_factory.mktemp("values") / "run"
    with Recorder(directory, model) as recorder:
        for step in range(1, 41):
            with torch.no_grad():
                model.weight += 1.0
            more = {"grad_norm": float(step)} if step % 4 == 0 else {}
            recorder.record(1.0 / step, lr=0.1 / step, **more)
    return Trajectory(directory)


def lines(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata())]


def test_step_sizes_have_them_below(path):
    values = {name: {"": series} for name, series in path.values.items()}
    figure = plot_step_sizes(step_sizes(path), values=values)
    drawn = {axes.get_ylabel(): axes for axes in figure.axes}
    (lr,), (norms,) = lines(drawn["lr"]), lines(drawn["grad_norm"])
    np.testing.assert_allclose(lr.get_xdata(), np.arange(1, 41))
    np.testing.assert_allclose(lr.get_ydata(), 0.1 / np.arange(1, 41))
    np.testing.assert_allclose(norms.get_xdata(), np.arange(4, 41, 4))
    assert drawn["grad_norm"].get_xlabel() == "optimiser step"


def test_runs_are_compared_by_them(path):
    sizes = step_sizes(path)
    with_values = RunCurves(sizes, values=path.values)
    figure = plot_runs({"a": [with_values, with_values], "b": [RunCurves(sizes)]})
    drawn = {axes.get_ylabel(): axes for axes in figure.axes}
    assert set(drawn) == {"step size", "training loss (batches)", "lr", "grad_norm"}
    assert len(lines(drawn["lr"])) == 1
    assert len(lines(drawn["step size"])) == 2


def test_many_values_are_counted(path):
    some = {f"value {number}": path.values["lr"] for number in range(11)}
    figure = plot_runs({"a": [RunCurves(step_sizes(path), values=some)]})
    assert len(figure.axes) == 10
    text = " ".join(" ".join(each.get_text() for each in figure.texts).split())
    assert "3 more recorded values are not drawn" in text


def test_without_losses_there_is_no_empty_panel(path):
    sizes = step_sizes(path[:])
    assert [axes.get_ylabel() for axes in plot_runs({"a": [RunCurves(sizes)]}).axes] == [
        "step size"
    ]
    figure = plot_step_sizes(sizes)
    assert len(figure.axes) == 1
    assert "training loss" not in [t.get_text() for t in figure.legends[0].get_texts()]


def test_means_pass_over_what_is_not_finite():
    steps, values = np.arange(8), np.array([1.0, np.nan, 3.0, np.inf, 5.0, 7.0, np.nan, np.nan])
    middles, means = binned_series((steps, values), 2)
    assert (middles.tolist(), means.tolist()) == ([1.0, 4.5], [2.0, 6.0])
    assert len(binned_series((steps, np.full(8, np.nan)), 2)[0]) == 0


def test_values_are_by_name():
    with pytest.raises(ArgumentError, match="values as a dict by names"):
        plot_step_sizes(step_sizes(np.eye(3)), values=[1.0])
