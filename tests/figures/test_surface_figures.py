import dataclasses
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from losspath import RandomWalk, Surface, plot_distance_map, plot_surface, plot_surfaces
from losspath.analysis.distances import DistanceMap
from losspath.errors import ArgumentError, StoreError
from losspath.figures import HeightScale, save_figure
from losspath.figures.surfaces import describe_surface
from losspath.surface import StateLosses


def make_surface(loss=lambda x, y: 1.0 + x**2 + y**2, own=None, x=None, y=None, **changes):
    x = np.linspace(-2, 2, 9) if x is None else np.asarray(x, float)
    y = np.linspace(-1, 1, 7) if y is None else np.asarray(y, float)
    path = np.stack([np.linspace(-1.5, 1.5, 30), np.linspace(-0.8, 0.8, 30) ** 2], axis=1)
    index = np.array([0, 10, 20, 29])
    own = loss(*path[index].T) + np.zeros(4) if own is None else np.asarray(own, float)
    values = {
        "x": x,
        "y": y,
        "loss": loss(*np.meshgrid(x, y)) + np.zeros((len(y), len(x))),
        "accuracy": None,
        "evaluated": np.ones((len(y), len(x)), bool),
        "path": path,
        "explained_variance_ratio": np.array([0.8, 0.15]),
        "states": StateLosses(index, own),
        "provenance": {
            "description": "averaged (temperature 1)",
            "method": {"name": "averaged"},
            "run": "LeNet-5 on digits",
            "loss": "cross-entropy",
            "samples": 10_000,
        },
    }
    return Surface(**{**values, **changes})


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def dots(axes):
    """The scatters of states: those between, the start, the end."""
    return [c for c in axes.collections if isinstance(c, mpl.collections.PathCollection)]


def contours(axes, filled):
    kinds = [c for c in axes.collections if isinstance(c, mpl.contour.ContourSet)]
    (found,) = [c for c in kinds if c.filled == filled and c.zorder < 2.5]  # which veils have
    return found


def test_says_what_it_is_of():
    words = texts(plot_surface(make_surface(own=[9.0] * 4)))
    assert "LeNet-5 on digits: averaged (temperature 1)" in words
    assert "PC 1 (80.0% of variance)" in words
    assert "PC 2 (15.0% of variance)" in words
    assert "loss (cross-entropy)" in words
    assert any("9 × 7 points, 10,000 samples" in text for text in words)
    assert {"path", "start", "end"} <= set(words)
    assert "4 of 30 states, in the colour of their own loss" in words


def test_contours_are_where_the_losses_are():
    # A loss that is its own x coordinate has contours that are vertical lines, at their level.
    figure = plot_surface(make_surface(lambda x, y: x))
    lines = contours(figure.axes[0], filled=False)
    assert len(lines.levels) > 2
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        np.testing.assert_allclose(path.vertices[:, 0], level, atol=1e-9)


@pytest.mark.parametrize("across", [0.0, 0.35, -0.7])
def test_heights_on_contours_are_off_the_path_and_within_the_picture(across):
    surface = make_surface(lambda x, y: 2.5 + x)
    surface.path[:, 1] = across
    lines = contours(plot_surface(surface).axes[0], filled=False)
    places = np.array([text.get_position() for text in lines.labelTexts])
    assert len(places) >= 2
    away = (places[:, None] - surface.path[None]) / [4.0, 2.0]
    assert np.linalg.norm(away, axis=2).min() > 0.1
    assert (np.abs(places) < [1.8, 0.9]).all()
    heights = [float(text.get_text()) for text in lines.labelTexts]
    np.testing.assert_allclose(places[:, 0] + 2.5, heights, atol=0.01)


def test_a_short_line_around_the_end_of_the_path_has_no_height():
    surface = make_surface(lambda x, y: np.hypot(x - 1.5, 2 * (y - 0.6)), x=np.linspace(-2, 2, 41))
    lines = contours(plot_surface(surface).axes[0], filled=False)
    shortest = np.ptp(lines.get_paths()[0].vertices[:, 0])
    assert shortest < 0.2 * 4 < np.ptp(lines.get_paths()[2].vertices[:, 0])
    heights = [text.get_text() for text in lines.labelTexts]
    assert f"{lines.levels[0]:.3g}" not in heights
    assert f"{lines.levels[2]:.3g}" in heights


def test_what_is_not_exact_is_not_called_so():
    for factor, said in [
        (1.0, "median 0%, at most 0% off"),
        (1.0001, "median under 0.1%, at most under 0.1% off"),
        (1.002, "median 0.2%, at most 0.2% off"),
        (1.02, "median 2%, at most 2% off"),
    ]:
        surface = make_surface()
        own = surface.at(surface.path[surface.states.index]) * factor
        caption = describe_surface(make_surface(own=own))
        assert said in caption


def test_dots_have_the_colour_of_their_own_loss_on_the_scale_of_the_ground():
    surface = make_surface(own=[4.0, 1.0, 5.0, 2.0])
    figure = plot_surface(surface)
    axes = figure.axes[0]
    ground = contours(axes, filled=True)
    between, start, end = dots(axes)
    for scatter, losses, states in (
        (between, [1.0, 5.0], [10, 20]),
        (start, [4.0], [0]),
        (end, [2.0], [29]),
    ):
        assert scatter.get_array().tolist() == losses
        assert (scatter.norm.vmin, scatter.norm.vmax) == (ground.norm.vmin, ground.norm.vmax)
        assert scatter.cmap == ground.cmap
        np.testing.assert_array_equal(scatter.get_offsets(), surface.path[states])
    assert ground.norm.vmin == 1.0


def test_start_and_end_have_markers_of_their_own():
    shapes = [len(scatter.get_paths()[0]) for scatter in dots(plot_surface(make_surface()).axes[0])]
    assert len(set(shapes)) == 3


def test_losses_are_clipped_at_half_again_the_initial_loss_and_the_bar_says_so():
    surface = make_surface(own=[2.0, 2.0, 2.0, 2.0])
    scale = HeightScale.of([surface])
    assert (scale.low, scale.high, scale.clipped) == (1.0, 3.0, True)
    figure = plot_surface(surface)
    assert contours(figure.axes[0], filled=True).extend == "max"
    words = [" ".join(text.split()) for text in texts(figure)]
    assert "loss (cross-entropy); grey: over 3, 1.5 × the initial loss" in words
    assert surface.loss.max() == 6.0  # what is stored is not


@pytest.mark.parametrize(
    ("initial", "clipped"),
    [(10.0, False), (float("nan"), False), (float("inf"), False), (-1.0, False), (0.5, False)],
)
def test_a_limit_that_would_hide_all_or_nothing_is_not_drawn(initial, clipped):
    scale = HeightScale.of([make_surface(own=[initial, 2.0, 2.0, 2.0])])
    assert scale.clipped == clipped
    assert scale.high >= 6.0


def test_the_scale_is_logarithmic_where_the_range_asks_for_it():
    wide = make_surface(lambda x, y: np.exp(2 * x), own=[99.0] * 4)
    assert isinstance(HeightScale.of([wide]).norm, LogNorm)
    assert not isinstance(HeightScale.of([make_surface()]).norm, LogNorm)
    negative = make_surface(lambda x, y: np.exp(2 * x) - 1, own=[99.0] * 4)
    assert not isinstance(HeightScale.of([negative]).norm, LogNorm)
    assert contours(plot_surface(wide).axes[0], filled=True).norm.vmin == pytest.approx(np.exp(-4))


def test_levels_hold_every_loss_that_is_not_clipped():
    for surface in (make_surface(), make_surface(lambda x, y: np.exp(2 * x))):
        levels = HeightScale.of([surface]).levels
        assert levels[0] <= surface.loss.min()
        assert levels[-1] >= min(surface.loss.max(), 1.5 * surface.initial_loss)
        assert (np.diff(levels) > 0).all()


def test_losses_that_are_not_finite_are_crossed_and_not_coloured():
    surface = make_surface()
    surface.loss[1, 2], surface.loss[3, 4] = np.nan, np.inf
    figure = plot_surface(surface)
    (crosses,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert crosses.get_xydata().tolist() == [
        [surface.x[2], surface.y[1]],
        [surface.x[4], surface.y[3]],
    ]
    assert "loss not finite" in texts(figure)
    ground = contours(figure.axes[0], filled=True)
    assert not ground.get_paths()[-1].contains_point((surface.x[4], surface.y[3]))
    assert np.isfinite(ground.zmax)


def test_points_that_were_not_evaluated_are_blank_and_said_so():
    surface = make_surface()
    surface.evaluated[0, :] = False
    surface.loss[0, :] = np.nan
    figure = plot_surface(surface)
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert "not evaluated" in texts(figure)
    assert any("54 evaluated" in text for text in texts(figure))


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, float("nan"), float("inf"), 1e-300, 1e300])
def test_a_constant_surface_can_be_drawn(value, tmp_path):
    surface = make_surface(lambda x, y: value, own=[value] * 4)
    save_figure(plot_surface(surface), tmp_path / "f.png")


@pytest.mark.parametrize(
    ("x", "y"), [([0, 1], [0, 1]), ([0, 1, 5], [0, 1e-6]), ([0, 1e9], [0, 1e9])]
)
def test_small_and_uneven_grids_can_be_drawn(x, y, tmp_path):
    save_figure(plot_surface(make_surface(lambda x, y: x + y, x=x, y=y)), tmp_path / "f.png")


def test_a_path_that_leaves_the_grid_is_clipped_to_it():
    whole, cut = (plot_surface(make_surface(x=np.linspace(-w, w, 5))) for w in (2, 1))
    assert not any(c.get_clip_on() for c in (*dots(whole.axes[0]), whole.axes[0].lines[0]))
    assert all(c.get_clip_on() for c in (*dots(cut.axes[0]), cut.axes[0].lines[0]))


def test_a_single_line_of_points_is_no_picture():
    with pytest.raises(ArgumentError, match="two lines"):
        plot_surface(make_surface(x=[0.0], own=[1.0] * 4))


def test_equal_units_on_both_axes_or_a_note():
    assert plot_surface(make_surface()).axes[0].get_aspect() == 1.0
    assert not any(
        "have different scales" in text.replace("\n", " ")
        for text in texts(plot_surface(make_surface()))
    )
    long = plot_surface(make_surface(x=np.linspace(-20, 20, 9)))
    assert long.axes[0].get_aspect() == "auto"
    assert any("have different scales" in t.replace("\n", " ") for t in texts(long))


def test_surfaces_side_by_side_have_one_scale():
    low, high = make_surface(own=[9.0] * 4), make_surface(lambda x, y: 5 + x, own=[9.0] * 4)
    figure = plot_surfaces([low, high])
    norms = [contours(axes, filled=True).norm for axes in figure.axes[:2]]
    assert norms[0].vmin == norms[1].vmin == 1.0
    assert norms[0].vmax == norms[1].vmax == 9.0
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert len(bars) == 1


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("count", range(1, 8))
def test_any_number_of_surfaces_with_the_distance_map(count, tmp_path):
    surface = make_surface()
    distance = DistanceMap(
        surface.x, surface.y, np.abs(surface.loss), surface.path, np.array([0.8, 0.1])
    )
    figure = plot_surfaces([surface] * count, distance=distance, title="five")
    save_figure(figure, tmp_path / "f.png")
    assert texts(figure).count("‖sampled − sampled-pca‖") == 1
    caption = max(texts(figure), key=len).replace("\n", " ")
    assert caption.endswith(
        "‖sampled − sampled-pca‖: how far the vectors of the two are apart at a point."
    )
    with pytest.raises(ArgumentError, match="at least one"):
        plot_surfaces([])


def test_a_surface_can_be_drawn_into_axes_of_ones_own():
    mine = Figure()
    left, right = mine.subplots(1, 2)
    scale = HeightScale(0.0, 100.0, False, False)
    assert plot_surface(make_surface(), axes=left, title="mine", scale=scale) is mine
    assert left.get_title() == "mine"
    assert contours(left, filled=True).norm.vmax == 100.0
    assert not right.collections
    assert len(mine.axes) == 2
    assert not mine.legends


def test_the_distance_map_is_where_the_distances_are():
    surface = make_surface()
    values = np.add.outer(10 * np.arange(7.0), np.arange(9.0))
    distance = DistanceMap(surface.x, surface.y, values, surface.path, np.array([0.8, 0.1]))
    mesh = plot_distance_map(distance).axes[0].collections[0]
    np.testing.assert_array_equal(mesh.get_array().reshape(7, 9), values)
    corners = mesh.get_coordinates()
    assert (corners[0, 0] < [surface.x[0], surface.y[0]]).all()
    assert (corners[-1, -1] > [surface.x[-1], surface.y[-1]]).all()


def boxes(figure):
    """Where texts, legends and axes are, in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    footer = [*figure.legends, *figure.texts]
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
    return [part.get_window_extent(renderer) for part in footer], panels


@pytest.mark.parametrize("names", [1, 6])
def test_nothing_overlaps_and_nothing_leaves_the_figure(names):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    surface = make_surface(own=[2.0] * 4, x=np.linspace(-30, 30, 9))
    surface.loss[1, 2] = np.nan
    for figure in (plot_surface(surface), plot_surfaces([surface] * names, title="a title")):
        FigureCanvasAgg(figure)
        footer, panels = boxes(figure)
        for number, box in enumerate(footer):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert not any(box.overlaps(other) for other in footer[number + 1 :])
            assert not any(box.overlaps(panel) for panel in panels)


@pytest.mark.parametrize("height", [1.0, 0.81])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy_with_logits", "a" * 60])
def test_the_label_of_a_short_bar_is_within_the_figure(loss, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    y = height * np.linspace(-1, 1, 7)
    figure = plot_surface(make_surface(own=[2.0] * 4, y=y, provenance={"loss": loss}))
    FigureCanvasAgg(figure).draw()
    (bar,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    box = bar.yaxis.label.get_window_extent()
    assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert box.x1 <= figure.bbox.x1


def make_measured(**changes):
    """A surface with an accuracy and a quantity that falls and rises below zero."""
    surface = make_surface()
    x, y = np.meshgrid(surface.x, surface.y)
    own = {"accuracy": np.array([0.1, 0.4, 0.6, 0.9]), "metrics": {"margin": np.arange(4.0)}}
    states = dataclasses.replace(surface.states, **own)
    return dataclasses.replace(
        surface,
        **{"accuracy": (x + 2) / 5, "metrics": {"margin": 10 * y}, "states": states} | changes,
    )


def test_an_accuracy_is_drawn_from_nothing_to_all_and_dark_where_it_is_high():
    figure = plot_surface(make_measured(), height="accuracy")
    ground = contours(figure.axes[0], filled=True)
    assert (ground.norm.vmin, ground.norm.vmax, ground.extend) == (0.0, 1.0, "neither")
    assert sum(ground.cmap(1.0)[:3]) < sum(ground.cmap(0.0)[:3])
    assert [d.get_array().tolist() for d in dots(figure.axes[0])] == [[0.4, 0.6], [0.1], [0.9]]
    words = texts(figure)
    assert "accuracy" in words
    assert any(text.endswith("states, in the colour of their own accuracy") for text in words)
    (bar,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert bar.yaxis.get_major_formatter()(0.5) == "50%"
    assert not any("loss" in text for text in words)
    # Contours of a share that grows evenly along x, at their level.
    lines = contours(figure.axes[0], filled=False)
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        np.testing.assert_allclose((path.vertices[:, 0] + 2) / 5, level, atol=1e-9)


def test_another_quantity_is_drawn_from_its_smallest_to_its_largest():
    surface = make_measured()
    scale = HeightScale.of([surface], "margin")
    assert (scale.low, scale.high, scale.logarithmic, scale.clipped) == (-10, 10, False, False)
    figure = plot_surface(surface, height="margin")
    assert "margin" in texts(figure)
    # Read bilinearly, y is y: own values 0 … 3 against 10 y at the states.
    off = np.abs(10 * surface.path[surface.states.index, 1] - np.arange(4.0))
    said = f"median {np.median(off):.2g}, at most {off.max():.2g} off"
    assert any(said in " ".join(text.split()) for text in texts(figure))


def test_points_at_which_a_quantity_is_not_finite_are_crossed():
    surface = make_measured()
    surface.metrics["margin"][1, 2] = np.nan
    figure = plot_surface(surface, height="margin")
    (cross,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert cross.get_xydata().tolist() == [[surface.x[2], surface.y[1]]]
    assert "margin not finite" in texts(figure)
    assert not [line for line in plot_surface(surface).axes[0].lines if line.get_marker() == "x"]


def test_states_whose_value_is_not_known_have_no_colour():
    surface = make_measured(states=make_surface().states)
    figure = plot_surface(surface, height="accuracy")
    for scatter in dots(figure.axes[0]):
        assert np.isnan(np.ma.filled(scatter.get_array(), np.nan)).all()
    assert "4 of 30 states" in texts(figure)
    assert not any("Ground against" in text for text in texts(figure))


def test_surfaces_side_by_side_have_one_height(tmp_path):
    figure = plot_surfaces([make_measured(), make_measured()], height="margin")
    words = " ".join(" ".join(texts(figure)).split())
    assert "own margin, median: averaged 2.2, averaged 2.2." in words
    save_figure(figure, tmp_path / "f.png")


def test_heights_that_are_not_there_and_scales_of_others_are_refused():
    surface = make_measured()
    with pytest.raises(ArgumentError, match="height as one of loss, accuracy, margin, got 'rank'"):
        plot_surface(surface, height="rank")
    with pytest.raises(ArgumentError, match="height as one of loss, got 'accuracy'"):
        plot_surfaces([make_surface()], height="accuracy")
    with pytest.raises(ArgumentError, match="scale of loss, got one of accuracy"):
        plot_surface(surface, scale=HeightScale.of([surface], "accuracy"))


def make_joint(names, **changes):
    """A surface of runs of 30 / n states each, of which the first, one between and the last."""
    count = 30 // len(names)
    starts = {name: count * number for number, name in enumerate(names)}
    chosen = [start + place for start in starts.values() for place in (0, count // 2, count - 1)]
    states = StateLosses(np.array(chosen), np.linspace(3.0, 1.0, len(chosen)))
    return make_surface(**{"states": states, "starts": starts} | changes)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_runs_have_lines_of_their_own_with_their_names_and_none_between(count):
    names = [f"run {number}" for number in range(count)]
    surface = make_joint(names)
    figure = plot_surface(surface)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    for line, run in zip(lines, surface.runs.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), surface.path[run])
    assert len({(line.get_color(), str(line.get_linestyle())) for line in lines}) == count
    entries = dict(
        zip(
            (text.get_text() for text in figure.legends[0].get_texts()),
            figure.legends[0].legend_handles,
            strict=True,
        )
    )
    assert [entries[name].get_color() for name in names] == [line.get_color() for line in lines]
    assert "path" not in entries
    for number in range(count):  # between, start and end of each run
        first = 30 // count * number
        places = [first + 30 // count // 2, first, first + 30 // count - 1]
        drawn = dots(figure.axes[0])[3 * number : 3 * number + 3]
        for scatter, place in zip(drawn, places, strict=True):
            np.testing.assert_array_equal(scatter.get_offsets(), surface.path[[place]])


def test_a_distance_map_of_several_runs_has_the_ends_of_each():
    surface = make_surface()
    distance = DistanceMap(
        surface.x, surface.y, surface.loss, surface.path, np.array([0.8, 0.1]), starts=(0, 10)
    )
    lines = plot_distance_map(distance).axes[0].lines
    ends = {tuple(line.get_xydata()[0]) for line in lines if len(line.get_xdata()) == 1}
    assert ends == {tuple(surface.path[index]) for index in (0, 9, 10, 29)}


@pytest.mark.parametrize("extension", ["png", "pdf", "svg"])
def test_equal_figures_give_equal_files(tmp_path, extension):
    one, other = (
        save_figure(plot_surface(make_surface()), tmp_path / name / f"f.{extension}")
        for name in "ab"
    )
    assert one.read_bytes() == other.read_bytes()
    assert len(one.read_bytes()) > 5000


def test_a_figure_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    with pytest.raises(ArgumentError, match=r"\.pdf"):
        save_figure(Figure(), tmp_path / "f.gif")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
        save_figure(Figure(), tmp_path / "file" / "f.png")


def test_no_global_state_is_touched():
    before = dict(mpl.rcParams)
    plot_surfaces([make_surface()] * 2)
    assert dict(mpl.rcParams) == before
    code = (
        "import sys, losspath; losspath.plot_surface; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_surface_without_provenance_can_be_drawn(tmp_path):
    surface = dataclasses.replace(make_surface(), provenance={})
    save_figure(plot_surfaces([surface, surface]), tmp_path / "f.png")
    save_figure(plot_surface(surface), tmp_path / "g.png")


def test_something_else_than_a_surface_is_refused():
    for plot in (plot_surface, lambda what: plot_surfaces([what])):
        with pytest.raises(ArgumentError, match=r"expected a Surface.*losspath\.Surface\.load"):
            plot("surface.npz")


WALK = RandomWalk(np.array([0.61, 0.15]), 0.02)


def test_the_share_of_variance_stands_beside_that_of_a_random_walk():
    made = make_surface()
    words = "95% of the path's variance (a random walk with its step lengths: 76% ± 2%)"
    told = dataclasses.replace(made, provenance=made.provenance | {"random_walk": WALK.to_json()})
    for figure in (plot_surface(told), plot_surfaces([told, told])):
        assert any(f"The plane has {words}." in text.replace("\n", " ") for text in texts(figure))
    # Of planes that are not the path's principal one there is no such walk.
    assert "random walk" not in describe_surface(made)
    other = dataclasses.replace(told, explained_variance_ratio=np.array([0.5, 0.1]))
    figure = plot_surfaces([told, other])
    assert not any("random walk" in text.replace("\n", " ") for text in texts(figure))
    shown = DistanceMap(
        made.x, made.y, made.loss, made.path, np.array([0.8, 0.15]), random_walk=WALK
    )
    drawn = texts(plot_distance_map(shown))
    assert any(words in text.replace("\n", " ") for text in drawn)
