import dataclasses

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from losspath import Interpolation, StepSizes, plot_interpolation, plot_step_sizes
from losspath.errors import ArgumentError
from losspath.figures import save_figure


def make_interpolation(layers=2, accuracy=True, loss=None):
    alpha = np.linspace(-0.1, 1.1, 13)
    curves = np.add.outer(np.arange(layers + 1.0), 3 - 2 * alpha)
    return Interpolation(
        alpha=alpha,
        names=("whole model", *(f"layer{i}" for i in range(layers))),
        loss=curves if loss is None else loss,
        accuracy=curves / 10 if accuracy else None,
        provenance={"from": 0, "to": 9, "from_step": 0, "to_step": 1234, "loss": "mse_loss"},
    )


def make_steps(count=250, stride=1, losses=None):
    sizes = np.linspace(1, 0, count)
    losses = np.linspace(2, 1, count) if losses is None else losses
    return StepSizes(sizes, np.arange(count + 1) * stride, losses, {})


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def test_interpolation_draws_loss_and_accuracy_of_every_part():
    curves = make_interpolation()
    figure = plot_interpolation(curves, title="a run")
    assert len(figure.axes) == 2
    for axes, values in zip(figure.axes, (curves.loss, curves.accuracy), strict=True):
        drawn = [line for line in axes.lines if len(line.get_xdata()) == 13]
        np.testing.assert_array_equal([line.get_ydata() for line in drawn], values)
        for line in drawn:
            np.testing.assert_array_equal(line.get_xdata(), curves.alpha)
    words = texts(figure)
    assert {"whole model", "layer0", "layer1", "a run", "loss (mse_loss)", "accuracy"} <= set(words)
    assert "α (0: step 0, 1: step 1,234)" in words


def test_any_quantity_has_a_panel():
    curves = dataclasses.replace(make_interpolation(), metrics={"perplexity": np.ones((3, 13))})
    figure = plot_interpolation(curves, quantities=["perplexity", "accuracy"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["perplexity", "accuracy"]
    drawn = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 13]
    np.testing.assert_array_equal(drawn, curves.metrics["perplexity"])
    assert not any("share of the whole drop" in text for text in texts(figure))
    assert len(plot_interpolation(curves).axes) == 2  # loss and accuracy, as ever
    for wrong in (["rank"], []):
        with pytest.raises(ArgumentError, match=r"expected .*quantities"):
            plot_interpolation(curves, quantities=wrong)


def test_lines_are_told_apart_by_colour_and_dashes():
    figure = plot_interpolation(make_interpolation(layers=12))
    styles = [
        (line.get_color(), str(line.get_linestyle()))
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 13
    ]
    assert len(set(styles)) == 13


def test_without_accuracy_there_is_one_panel():
    assert len(plot_interpolation(make_interpolation(accuracy=False)).axes) == 1


def test_many_layers_are_coloured_by_depth_with_a_bar():
    figure = plot_interpolation(make_interpolation(layers=60))
    assert "layer, from the first to the last" in texts(figure)
    assert len(figure.legends[0].get_texts()) == 1
    colors = {line.get_color() for line in figure.axes[0].lines if len(line.get_xdata()) == 13}
    assert len(colors) == 61


def test_a_wide_range_of_losses_is_drawn_logarithmically():
    wide = np.geomspace(1e-3, 1e3, 39).reshape(3, 13)
    assert plot_interpolation(make_interpolation(loss=wide)).axes[0].get_yscale() == "log"
    assert plot_interpolation(make_interpolation()).axes[0].get_yscale() == "linear"
    wide[0, 0] = np.nan
    assert plot_interpolation(make_interpolation(loss=wide)).axes[0].get_yscale() == "log"


def test_losses_that_are_all_nan_can_be_drawn(tmp_path):
    figure = plot_interpolation(make_interpolation(loss=np.full((3, 13), np.nan)))
    save_figure(figure, tmp_path / "f.png")


def test_step_sizes_are_drawn_with_the_loss_on_a_second_axis():
    steps = make_steps()
    figure = plot_step_sizes(steps, title="a run")
    sizes, losses = figure.axes
    middles, means, mean_losses = steps.binned(100)
    np.testing.assert_array_equal(sizes.lines[0].get_xydata(), np.stack([middles, means], 1))
    np.testing.assert_array_equal(losses.lines[0].get_xydata(), np.stack([middles, mean_losses], 1))
    assert sizes.get_shared_x_axes().joined(sizes, losses)
    assert "training loss (batch)" in texts(figure)
    assert any("100 equal parts" in text for text in texts(figure))


def test_several_runs_have_a_legend_and_colours_of_their_own():
    runs = {f"run {number}": make_steps(100 + number) for number in range(9)}
    figure = plot_step_sizes(runs)
    assert set(runs) <= set(texts(figure))
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == 9
    entries = {
        text.get_text(): (line.get_color(), line.get_linestyle())
        for text, line in zip(
            figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=True
        )
    }
    for line, name in zip(figure.axes[0].lines, runs, strict=True):
        assert entries[name] == (line.get_color(), line.get_linestyle())


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101])
def test_short_runs_can_be_drawn(count, tmp_path):
    figure = plot_step_sizes(make_steps(count))
    save_figure(figure, tmp_path / "f.png")
    assert any(f"{min(count, 100)} equal parts" in text for text in texts(figure))
    if count == 1:  # a line of one point would not be seen
        assert figure.axes[0].lines[0].get_marker() == "."


def test_states_that_were_left_out_are_named_on_the_axis():
    assert any("size of a step" in text for text in texts(plot_step_sizes(make_steps())))
    assert any(
        "distance over 10 steps" in text for text in texts(plot_step_sizes(make_steps(stride=10)))
    )


def test_lost_states_are_told_and_make_no_strides():
    found = make_steps(20)
    found.sizes[4] = np.nan
    found.steps[5:] += 7
    found.provenance["holes"] = [4]
    words = texts(plot_step_sizes(found))
    assert any("size of a step" in text for text in words)
    caption = " ".join(" ".join(words).split())
    assert "Left out: 1 steps in which states were lost." in caption


def test_nan_losses_and_sizes_leave_gaps(tmp_path):
    steps = make_steps(losses=np.full(250, np.nan))
    steps.sizes[10] = np.inf
    save_figure(plot_step_sizes(steps), tmp_path / "f.png")


def test_wrong_arguments_are_refused():
    with pytest.raises(ArgumentError, match="at least one run"):
        plot_step_sizes({})
    with pytest.raises(ArgumentError, match="at least one bin"):
        plot_step_sizes(make_steps(), bins=0)


@pytest.mark.parametrize("number", [1, 2, 9])
def test_nothing_overlaps(number):
    runs = {f"LeNet-5 on MNIST, SGD lr 0.0{n}, dropout 0.5": make_steps() for n in range(number)}
    for figure in (
        plot_step_sizes(runs, title="t"),
        plot_interpolation(make_interpolation(number)),
    ):
        FigureCanvasAgg(figure)
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        footer = [p.get_window_extent(renderer) for p in (*figure.legends, *figure.texts)]
        panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
        for position, box in enumerate(footer):
            assert box.x1 <= figure.bbox.x1
            assert box.y0 >= 0
            assert not any(box.overlaps(other) for other in footer[position + 1 :])
            assert not any(box.overlaps(panel) for panel in panels)


def test_something_else_is_refused():
    with pytest.raises(ArgumentError, match=r"losspath\.Interpolation\.load"):
        plot_interpolation(make_steps())
    with pytest.raises(ArgumentError, match=r"losspath\.StepSizes\.load"):
        plot_step_sizes([make_steps()])
