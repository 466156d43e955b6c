"""Surfaces of Li et al.'s script: written here as its loop writes them."""

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest

from losspath import Surface, load_h5_surface, plot_surface
from losspath.errors import ArgumentError, StoreError


def as_the_script_writes(file, x, y, loss, accuracy, points=None):
    """Fills an array of shape (x, y) in the order of a grid of shape (y, x), from −1 on."""
    losses, accuracies = -np.ones((len(x), len(y))), -np.ones((len(x), len(y)))
    across, up = (grid.ravel() for grid in np.meshgrid(x, y))
    for number in range(losses.size if points is None else points):
        losses.ravel()[number] = loss(across[number], up[number])
        accuracies.ravel()[number] = accuracy(across[number], up[number])
    with h5py.File(file, "w") as content:
        content["dir_file"] = "directions.h5"
        content["xcoordinates"], content["ycoordinates"] = x, y
        content["train_loss"], content["train_acc"] = losses, accuracies


def loss(x, y):
    return 20 + 3 * x - 5 * y


def accuracy(x, y):
    return 50 + 10 * x + y


@pytest.mark.parametrize("size", [(5, 5), (4, 7), (7, 4), (2, 9)])
def test_each_value_is_at_its_point(tmp_path, size):
    x, y = np.linspace(-1, 1, size[0]), np.linspace(-0.5, 2, size[1])
    as_the_script_writes(tmp_path / "a.h5", x, y, loss, accuracy)
    surface = load_h5_surface(tmp_path / "a.h5")
    across, up = np.meshgrid(x, y)
    np.testing.assert_allclose(surface.loss, loss(across, up))
    np.testing.assert_allclose(surface.accuracy, accuracy(across, up) / 100)
    assert surface.evaluated.all()
    np.testing.assert_allclose(surface.at([[0.3, 0.7]]), loss(0.3, 0.7))


def test_what_is_still_to_come_is_not_evaluated(tmp_path):
    x, y = np.linspace(-1, 1, 4), np.linspace(-1, 1, 3)
    as_the_script_writes(tmp_path / "a.h5", x, y, loss, accuracy, points=6)
    surface = load_h5_surface(tmp_path / "a.h5")
    assert surface.evaluated.tolist() == [[True] * 4, [True, True, False, False], [False] * 4]
    assert np.isnan(surface.loss[~surface.evaluated]).all()
    assert np.isnan(surface.accuracy[~surface.evaluated]).all()


def write_directions(file, x, y, ratio=None):
    """As its `write_list` does: a group for a direction, an array for each parameter."""
    with h5py.File(file, "w") as content:
        for name, parts in (("xdirection", x), ("ydirection", y)):
            group = content.create_group(name)
            for number, part in enumerate(parts):
                group.create_dataset(str(number), data=part)
        if ratio is not None:
            content["explained_variance_ratio_"] = ratio


def write_projection(file, x, y):
    with h5py.File(file, "w") as content:
        content["proj_xcoord"], content["proj_ycoord"] = x, y


def test_with_the_projected_path_it_is_drawn_and_saved(tmp_path):
    x = y = np.linspace(-2, 2, 5)
    name = "model_300.t7_weights_xignore=biasbn_xnorm=filter.h5_[-1.0,1.0,51]x[-1.0,1.0,51].h5"
    as_the_script_writes(tmp_path / name, x, y, loss, accuracy)
    write_projection(tmp_path / "path.h5", [-1.5, -0.5, 0.0], [1.0, 0.5, 0.0])
    axes = [[[0.6, 0.0]], [0.8]], [[[0.0, 1.0]], [0.0]]
    write_directions(tmp_path / "directions.h5", *axes, ratio=[0.7, 0.2])
    surface = load_h5_surface(
        tmp_path / name, projection=tmp_path / "path.h5", directions=tmp_path / "directions.h5"
    )
    np.testing.assert_allclose(surface.path, [[-1.5, 1], [-0.5, 0.5], [0, 0]], atol=1e-12)
    assert surface.explained_variance_ratio.tolist() == [0.7, 0.2]
    assert surface.states.index.tolist() == [0, 2]
    figure = plot_surface(surface)
    texts = [figure.axes[0].get_xlabel(), *(text.get_text() for text in figure.texts)]
    assert "PC 1 (70.0% of variance)" in texts
    assert "model_300.t7: Li et al., train" in " ".join(texts)
    surface.save(tmp_path / "own.npz")
    np.testing.assert_array_equal(Surface.load(tmp_path / "own.npz").loss, surface.loss)
    plt.close("all")


def test_a_path_along_long_and_slanting_directions_is_where_the_surface_has_it(tmp_path):
    generator = np.random.default_rng(0)
    directions = generator.normal(0, 3, (2, 50))
    directions[1] += directions[0] / 2
    places = np.array([[-0.9, 0.4], [0.3, -0.7], [0.0, 0.0]])
    ways = places @ directions  # from the last state, in the space of parameters
    x, y = (ways @ each / np.linalg.norm(each) for each in directions)  # as it projects them
    write_projection(tmp_path / "path.h5", x, y)
    assert np.abs(x - places[:, 0]).max() > 1
    parts = [[each[:48].reshape(6, 8), each[48:], np.float64(1e6)] for each in directions]
    write_directions(tmp_path / "directions.h5", *parts)  # a scalar has no share in its projection
    grid = np.linspace(-1, 1, 3)
    as_the_script_writes(tmp_path / "a.h5", grid, grid, loss, accuracy)
    files = {"projection": tmp_path / "path.h5", "directions": tmp_path / "directions.h5"}
    np.testing.assert_allclose(load_h5_surface(tmp_path / "a.h5", **files).path, places, atol=1e-9)


def test_nothing_is_said_of_how_far_it_is_off_losses_that_are_not_known(tmp_path):
    x = y = np.linspace(-1, 1, 5)
    as_the_script_writes(tmp_path / "a.h5", x, y, loss, accuracy)
    surface = load_h5_surface(tmp_path / "a.h5")
    assert np.isnan(surface.states.loss).all()
    words = " ".join(text.get_text() for text in plot_surface(surface).texts).replace("\n", " ")
    assert "The states' own losses are not known." in words
    assert "off" not in words
    plt.close("all")


def test_without_a_path_the_axes_claim_nothing(tmp_path):
    x = y = np.linspace(-1, 1, 3)
    as_the_script_writes(tmp_path / "a.h5", x, y, loss, accuracy)
    figure = plot_surface(load_h5_surface(tmp_path / "a.h5"))
    assert figure.axes[0].get_xlabel() == "direction x"
    plt.close("all")


def test_what_is_no_surface_is_refused(tmp_path):
    with pytest.raises(StoreError, match="found no file"):
        load_h5_surface(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(StoreError, match=r"got .*text\.h5, which is none"):
        load_h5_surface(tmp_path / "text.h5")
    with h5py.File(tmp_path / "line.h5", "w") as content:
        content["xcoordinates"], content["train_loss"] = np.arange(3.0), np.arange(3.0)
    with pytest.raises(ArgumentError, match="got the line of 3 points"):
        load_h5_surface(tmp_path / "line.h5")
    x = y = np.linspace(-1, 1, 3)
    as_the_script_writes(tmp_path / "a.h5", x, y, loss, accuracy)
    with pytest.raises(ArgumentError, match=r"expected test_loss in .*got .*train_acc, train_loss"):
        load_h5_surface(tmp_path / "a.h5", data="test")
    with pytest.raises(ArgumentError, match="expected proj_xcoord"):
        load_h5_surface(tmp_path / "a.h5", projection=tmp_path / "a.h5")
    write_projection(tmp_path / "path.h5", [1.0, 0.0], [1.0, 0.0])
    with pytest.raises(ArgumentError, match=r"expected directions too, .*--dir_file"):
        load_h5_surface(tmp_path / "a.h5", projection=tmp_path / "path.h5")
    one = [np.ones((2, 3))]
    write_directions(tmp_path / "same.h5", one, one)
    files = {"projection": tmp_path / "path.h5", "directions": tmp_path / "same.h5"}
    with pytest.raises(ArgumentError, match="expected two directions that are not parallel"):
        load_h5_surface(tmp_path / "a.h5", **files)
    files["directions"] = tmp_path / "a.h5"
    with pytest.raises(ArgumentError, match=r"expected two directions .* train_loss, xcoord"):
        load_h5_surface(tmp_path / "a.h5", **files)
    with h5py.File(tmp_path / "a.h5", "a") as content:
        del content["train_loss"]
        content["train_loss"] = np.zeros(5)
    with pytest.raises(ArgumentError, match=r"expected 3 × 3 values of train_loss, got .*\(5,\)"):
        load_h5_surface(tmp_path / "a.h5")
