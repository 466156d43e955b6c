import matplotlib as mpl
import numpy as np
import pytest

from losspath import History, RunCurves, StepSizes, plot_history, plot_runs, plot_step_panels
from losspath.errors import ArgumentError


def make_run(seed=0, count=200, history=True, level=1.0):
    sizes = level * np.linspace(1, 0.1, count) + 0.01 * seed
    curves = StepSizes(sizes, np.arange(count + 1), np.linspace(2, 1, count) + seed, {})
    return RunCurves(curves, make_history(count, level) if history else None, seed)


def make_history(count=200, level=1.0):
    rows = [
        {
            "epoch": epoch,
            "step": epoch * count // 4,
            "training_loss": level * (3.0 - 0.5 * epoch),
            "training_accuracy": 0.2 * epoch,
            "validation_loss": level * (3.1 - 0.5 * epoch),
            "validation_accuracy": 0.19 * epoch,
        }
        for epoch in range(5)
    ]
    return History.of(rows)


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def test_runs_are_drawn_in_four_panels():
    runs = {"sgd": [make_run()], "adam": [make_run(level=2.0)]}
    figure = plot_runs(runs, title="both")
    sizes, losses, validation, accuracy = figure.axes
    for axes, expected in (
        (sizes, [run.sizes.binned(100)[1] for (run,) in runs.values()]),
        (losses, [run.sizes.binned(100)[2] for (run,) in runs.values()]),
        (validation, [run.history.validation_loss for (run,) in runs.values()]),
        (accuracy, [run.history.validation_accuracy for (run,) in runs.values()]),
    ):
        np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], expected)
    np.testing.assert_array_equal(accuracy.lines[0].get_xdata(), [0, 50, 100, 150, 200])
    assert {"sgd", "adam", "both", "step size", "validation accuracy"} <= set(texts(figure))
    assert len({line.get_color() for line in sizes.lines}) == 2


def test_seeds_are_drawn_as_mean_and_band():
    group = [make_run(seed) for seed in range(3)]
    figure = plot_runs({"sgd": group})
    axes = figure.axes[0]
    means = [run.sizes.binned(100)[1] for run in group]
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_ydata(), np.mean(means, axis=0))
    (band,) = axes.collections
    reach = band.get_paths()[0].vertices[:, 1]
    assert reach.min() == pytest.approx(np.min(means))
    assert reach.max() == pytest.approx(np.max(means))
    assert "sgd (3 seeds)" in texts(figure)


def test_by_epoch_the_axis_counts_epochs():
    figure = plot_runs({"a": [make_run()], "b": [make_run(count=400)]}, by="epoch")
    for line in figure.axes[3].lines:
        np.testing.assert_allclose(line.get_xdata(), [0, 1, 2, 3, 4])
    for line in figure.axes[0].lines:
        assert 3.9 < line.get_xdata()[-1] <= 4
    assert "epoch" in texts(figure)


def test_runs_of_different_lengths_are_drawn_each():
    figure = plot_runs({"a": [make_run(), make_run(1, count=400)]})
    assert len(figure.axes[0].lines) == 2


def test_without_histories_there_are_two_panels():
    figure = plot_runs({"own": [make_run(history=False)]})
    assert len(figure.axes) == 2
    mixed = plot_runs({"own": [make_run(history=False)], "other": [make_run()]})
    assert [len(axes.lines) for axes in mixed.axes] == [2, 2, 1, 1]


def test_styles_can_be_given():
    figure = plot_runs({"a": [make_run()]}, styles={"a": {"color": "#123456", "linestyle": ":"}})
    assert figure.axes[0].lines[0].get_color() == "#123456"
    assert figure.axes[0].lines[0].get_linestyle() == ":"


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ({}, {}, "at least one run"),
        ({"a": []}, {}, "at least one run"),
        ({"a": [make_run()]}, {"by": "time"}, "step"),
        ({"a": [make_run(history=False)]}, {"by": "epoch"}, "without a history"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, options, message):
    with pytest.raises(ArgumentError, match=message):
        plot_runs(runs, **options)


def test_history_shows_training_and_validation():
    history = make_history()
    figure = plot_history(history, title="a run")
    loss, accuracy = figure.axes
    for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
        expected = [getattr(history, f"{part}_{what}") for part in ("training", "validation")]
        np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], expected)
    assert {"training", "validation", "epoch", "a run"} <= set(texts(figure))


def test_history_without_accuracies_has_one_panel():
    rows = [{"epoch": 0, "step": 0, "training_loss": 1.0}, {"epoch": 1, "step": 9}]
    assert len(plot_history(History.of(rows)).axes) == 1


def test_step_sizes_have_a_panel_for_each_place():
    panels = {
        "LeNet-5": {"sgd": [make_run(), make_run(1)], "adam": [make_run(level=2.0)]},
        "VGG": {"adam": [make_run(level=0.3)]},
        "TinyNN": {"sgd": [make_run(count=20)]},
    }
    figure = plot_step_panels(panels, title="three networks", styles={"sgd": {"color": "black"}})
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    first, second, third = figure.axes
    assert (len(first.lines), len(first.collections), len(second.lines)) == (2, 1, 1)
    np.testing.assert_array_equal(third.lines[0].get_ydata(), make_run(count=20).sizes.sizes)
    assert first.lines[0].get_color() == third.lines[0].get_color() == "black"
    assert first.lines[1].get_color() == second.lines[0].get_color()
    words = " ".join(texts(figure))
    assert "three networks" in words
    assert "bands: from the least" in " ".join(words.split())
    for nothing in ({}, {"a": {}}, {"a": {"sgd": []}}):
        with pytest.raises(ArgumentError, match="at least one run"):
            plot_step_panels(nothing)


def test_a_history_without_epochs_is_drawn_by_step():
    rows = [{"step": 10.0 * i, "training_loss": 3.0 - i} for i in range(3)]
    figure = plot_history(History.of(rows), names=("the objective", ""))
    (loss,) = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [0, 10, 20])
    assert len(loss.lines) == 1
    words = texts(figure)
    assert {"optimiser step", "the objective"} <= set(words)
    assert "validation" not in words
