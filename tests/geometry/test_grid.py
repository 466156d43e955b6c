import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from losspath import Grid
from losspath.errors import ArgumentError

PATH = np.array([[-3.0, -0.9], [-1.0, 2.0], [0.5, 1.1], [4.0, -1.0], [2.2, 0.3]])

coordinates = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
paths = st.integers(1, 8).flatmap(
    lambda count: arrays(np.float64, (count, 2), elements=coordinates)
)


def test_thesis_grid_has_19_lines_of_which_17_are_even():
    grid = Grid.around(PATH)
    assert grid.shape == (19, 19)
    for axis, lines in enumerate((grid.x, grid.y)):
        low, high = PATH[:, axis].min(), PATH[:, axis].max()
        ends = PATH[[0, -1], axis]
        even = np.array([line for line in lines if line not in ends])
        middle, half = (low + high) / 2, 0.6 * (high - low)
        np.testing.assert_allclose(even, np.linspace(middle - half, middle + half, 17))
        assert set(ends) <= set(lines)


def test_lines_of_a_small_grid_by_hand():
    grid = Grid.around(PATH, 5)
    np.testing.assert_allclose(grid.x, [-3.7, -3.0, 0.5, 2.2, 4.7])
    np.testing.assert_allclose(grid.y, [-1.3, -0.9, 0.3, 0.5, 2.3])


def test_points_go_row_by_row():
    grid = Grid(np.array([1.0, 2.0, 4.0]), np.array([-1.0, 5.0]))
    assert grid.shape == (2, 3)
    expected = [[1, -1], [2, -1], [4, -1], [1, 5], [2, 5], [4, 5]]
    np.testing.assert_array_equal(grid.points, expected)
    losses = np.arange(6.0).reshape(grid.shape)
    for (x, y), loss in zip(grid.points, losses.reshape(-1), strict=True):
        i, j = int(np.flatnonzero(grid.y == y)[0]), int(np.flatnonzero(grid.x == x)[0])
        assert losses[i, j] == loss


@settings(deadline=None, max_examples=300)
@given(path=paths, resolution=st.integers(3, 40), margin=st.sampled_from([0.5, 0.6, 1.0, 3.0]))
@example(path=np.zeros((1, 2)), resolution=3, margin=0.6)
@example(path=np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]), resolution=3, margin=0.6)
@example(path=np.array([[0.0, 1.0], [-1.0, 1.0], [1.0, 1.0]]), resolution=19, margin=0.6)
@example(path=np.array([[1000.0, 1e-6], [-1000.0, 0.0]]), resolution=5, margin=0.6)
def test_grid_around_any_path(path, resolution, margin):
    width = path.max(axis=0) - path.min(axis=0)
    # A plane's coordinates are centred, hence never far from zero for their width.
    assume(width.max() == 0 or width.max() > 1e-9 * np.abs(path).max())
    grid = Grid.around(path, resolution, margin)
    extent = np.where(width > 1e-9 * width.max(), width, width.max() or 1.0)
    for axis, lines in enumerate((grid.x, grid.y)):
        assert (np.diff(lines) > 0).all()
        assert 2 <= len(lines) <= resolution
        assert path[0, axis] in lines
        # An end within 1e-9 of the start's line shares it.
        apart = abs(path[-1, axis] - path[0, axis]) > 2e-9 * margin * extent[axis]
        nearest = np.abs(lines - path[-1, axis]).min()
        assert nearest == 0.0 if apart else nearest <= 2e-9 * margin * extent[axis]
        middle = (path[:, axis].min() + path[:, axis].max()) / 2
        if resolution >= 4:
            tolerance = 1e-8 * extent[axis] + 1e-12
            assert lines[0] == pytest.approx(middle - margin * extent[axis], abs=tolerance)
            assert lines[-1] == pytest.approx(middle + margin * extent[axis], abs=tolerance)
            assert lines[0] - tolerance <= path[:, axis].min()
            assert lines[-1] + tolerance >= path[:, axis].max()
        # Ends take the place of at most one even line each.
        assert len(lines) >= resolution - 2


@settings(deadline=None, max_examples=100)
@given(path=paths, resolution=st.integers(3, 20), axis=st.integers(0, 1))
def test_mirrored_path_has_the_mirrored_grid(path, resolution, axis):
    signs = np.where(np.arange(2) == axis, -1.0, 1.0)
    grid, mirrored = Grid.around(path, resolution), Grid.around(path * signs, resolution)
    lines, others = (grid.x, mirrored.x) if axis == 0 else (grid.y, mirrored.y)
    assert len(lines) == len(others)
    np.testing.assert_allclose(-others[::-1], lines, rtol=1e-12, atol=1e-9)


def test_lines_that_coincide_are_one():
    # The start and the end fall on even lines of five: -1.2, -0.6, 0, 0.6, 1.2.
    path = np.array([[0.0, 0.6], [-1.0, -1.0], [1.0, 1.0], [0.6, 0.0]])
    grid = Grid.around(path, 7)
    assert grid.shape == (5, 5)
    np.testing.assert_allclose(grid.x, [-1.2, -0.6, 0.0, 0.6, 1.2])
    assert 0.6 in grid.x
    assert 0.6 in grid.y


def test_closed_loop_has_one_line_for_both_ends():
    path = np.array([[-0.7, 0.1], [-1.0, -1.0], [1.0, 1.0], [-0.7, 0.1]])
    assert Grid.around(path).shape == (18, 18)


def test_smallest_grids():
    np.testing.assert_allclose(Grid.around(PATH, 3).x, [-3.0, 0.5, 2.2])
    np.testing.assert_allclose(Grid.around(PATH, 4).x, [-3.7, -3.0, 2.2, 4.7])
    for resolution in (2, 1, 0, -5):
        with pytest.raises(ArgumentError, match="at least 3"):
            Grid.around(PATH, resolution)


@pytest.mark.parametrize("flat", [0.0, 1e-14])
def test_path_flat_along_an_axis_gets_the_other_axis_width(flat):
    path = np.array([[-1.0, 0.0], [0.3, flat], [3.0, -flat]])
    grid = Grid.around(path, 6)
    assert grid.y[-1] - grid.y[0] == pytest.approx(1.2 * 4.0)
    assert grid.x[-1] - grid.x[0] == pytest.approx(1.2 * 4.0)
    other = Grid.around(path[:, ::-1], 6)
    np.testing.assert_array_equal(other.x, grid.y)
    np.testing.assert_array_equal(other.y, grid.x)


def test_thin_path_keeps_its_width():
    path = PATH * [1.0, 1e-6]
    np.testing.assert_allclose(Grid.around(path).y, Grid.around(PATH).y * 1e-6, rtol=1e-9)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_margin_without_a_width_is_refused(margin):
    with pytest.raises(ArgumentError):
        Grid.around(PATH, margin=margin)


@pytest.mark.parametrize(
    "path", [np.zeros((0, 2)), np.zeros((3, 3)), np.zeros(2), [[0.0, np.nan]], [[np.inf, 0.0]]]
)
def test_coordinates_that_are_none_are_refused(path):
    with pytest.raises(ArgumentError):
        Grid.around(path)


@pytest.mark.parametrize(
    "lines", [[], [1.0, 1.0], [2.0, 1.0], [0.0, np.nan], [0.0, np.inf], [[0.0, 1.0]]]
)
def test_lines_that_do_not_increase_are_refused(lines):
    good, bad = np.array([0.0, 1.0]), np.array(lines)
    with pytest.raises(ArgumentError, match=r"grid\.x"):
        Grid(bad, good)
    with pytest.raises(ArgumentError, match=r"grid\.y"):
        Grid(good, bad)


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (5, 9), (19, 19), (18, 19), (51, 7), (1, 4)])
def test_levels_are_nested_grids_and_in_the_end_all_points(shape):
    grid = Grid(np.arange(shape[1]) ** 1.5, np.arange(shape[0]) ** 0.5)
    levels = grid.levels()
    assert sorted(np.concatenate(levels).tolist()) == list(range(shape[0] * shape[1]))
    seen = np.zeros(shape, bool)
    for level, numbers in enumerate(levels):
        assert (np.diff(numbers) > 0).all()
        seen.reshape(-1)[numbers] = True
        rows, columns = seen.any(axis=1), seen.any(axis=0)
        assert (seen == np.outer(rows, columns)).all()
        # The border is there from the first level on.
        assert rows[[0, -1]].all()
        assert columns[[0, -1]].all()
        for lines, count in zip((rows, columns), shape, strict=True):
            assert lines.sum() == min(count, 2 ** (level + 1) + 1) or lines.all()


def test_the_first_levels_of_the_usual_grid():
    levels = Grid(np.arange(19.0), np.arange(19.0)).levels()
    assert [len(numbers) for numbers in levels] == [9, 16, 56, 280]
    assert levels[0].tolist() == [0, 9, 18, 171, 180, 189, 342, 351, 360]
