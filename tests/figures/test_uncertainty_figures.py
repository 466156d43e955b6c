"""Pictures of uncertainty: what is on them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.collections import PolyCollection
from matplotlib.text import Text

import losspath
from losspath.errors import ArgumentError
from losspath.figures import plot_uncertainty, save_figure


@pytest.fixture(scope="module")
def scene():
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    y = (x[:, 0] > 0).long()
    path = np.random.default_rng(0).normal(size=(30, 10)).cumsum(axis=0) / 3
    objective = losspath.Objective(torch.nn.Linear(4, 2), x, y, F.cross_entropy)
    surface = losspath.compute_surface(path, objective, "pca", 5, fidelity=False)
    return path, objective, surface, losspath.surface_uncertainty(path, objective, "pca", 5)


def words(figure):
    figure.draw_without_rendering()  # which writes what is at the ticks
    texts = [text.get_text() for text in figure.findobj(Text)]
    return " ".join(" ".join(texts).split())


def hatched(figure):
    return any(
        getattr(set_, "hatches", [None])[0] for set_ in figure.findobj() if hasattr(set_, "hatches")
    )


def test_a_surface_beside_its_uncertainty(scene, tmp_path):
    *_, surface, found = scene
    figure = plot_uncertainty(found, surface, title="here")
    told = words(figure)
    for part in (
        "here",
        "loss",
        "uncertainty, by samples",
        "half of the 90% interval (factor, each way)",
        "×1.0",
    ):
        assert part in told, part
    assert "hold the loss over all data that the samples are drawn from; by 60 samples" in told
    assert len(figure.axes) == 4
    save_figure(figure, tmp_path / "u.png")


@pytest.mark.parametrize("share", [0.25, float("nan"), None])
def test_axes_say_their_share_of_variance_where_it_is_known(scene, share):
    *_, found = scene
    known = found.provenance | {"explained_variance_ratio": [share, share]}
    if share is None:
        del known["explained_variance_ratio"]
    told = words(plot_uncertainty(dataclasses.replace(found, provenance=known)))
    assert ("25.0% of variance" in told) == (share == 0.25)
    assert "nan% of variance" not in told


def test_what_is_wide_is_hatched_and_said(scene):
    *_, surface, found = scene
    limit = float(np.median(found.widths))
    figure = plot_uncertainty(found, surface, wide=limit)
    assert hatched(figure)
    assert "interval wider than ×" in words(figure)
    none = plot_uncertainty(found, surface, wide=2 * float(found.widths.max()))
    assert not hatched(none)
    assert "wider" not in words(none)


def test_ends_that_are_zero_or_unknown_are_beyond_the_scale(scene):
    *_, found = scene
    lower, upper = found.lower.copy(), found.upper.copy()
    lower[0, 0], upper[2, 2], lower[2, 2] = 0.0, np.nan, np.nan
    other = dataclasses.replace(found, lower=lower, upper=upper)
    assert np.isposinf(other.widths[0, 0])
    figure = plot_uncertainty(other)
    assert "not known" in words(figure)
    figure.canvas.draw()


def test_widths_of_losses_below_zero_are_not_factors(scene):
    *_, found = scene
    low = dataclasses.replace(
        found, loss=found.loss - 9, lower=found.lower - 9, upper=found.upper - 9
    )
    told = words(plot_uncertainty(low))
    assert "(± loss)" in told
    assert "×" not in told
    assert "±" in words(plot_uncertainty(low, wide=1e-3))


def test_a_line_has_a_band(scene):
    path, objective, surface, _ = scene
    line = losspath.line_uncertainty(path, objective)
    figure = plot_uncertainty(line)
    (axes,) = figure.axes
    (band,) = [each for each in axes.collections if isinstance(each, PolyCollection)]
    corners = band.get_paths()[0].vertices[:, 1]
    assert corners.min() == pytest.approx(line.lower.min())
    assert corners.max() == pytest.approx(line.upper.max())
    assert "90% intervals" in words(figure)
    assert "state 29" in words(figure)
    with pytest.raises(ArgumentError, match="no surface beside"):
        plot_uncertainty(line, surface)


def test_draws_say_where_their_middle_is(scene):
    path, objective, *_ = scene
    found = losspath.surface_uncertainty(path, objective, "pca", 3, source="swag")
    told = words(plot_uncertainty(found))
    assert f"20 draws, the same at all points, whose middle is ×{found.offset:.2f} of" in told


def test_another_grid_is_refused(scene):
    path, objective, _, found = scene
    other = losspath.compute_surface(path, objective, "pca", 4, fidelity=False)
    with pytest.raises(ArgumentError, match="same grid"):
        plot_uncertainty(found, other)
