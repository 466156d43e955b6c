import numpy as np
import pytest

from cases import AS_DRAWN, METHODS, descent, line, loop, named, objective_of
from losspath import LosspathWarning, compute_surface
from losspath.errors import PathError
from losspath.methods import Sampled

DEGENERATE = {
    "two states": descent(2, 5),
    "two states of two parameters": np.array([[0.0, 0.0], [3.0, 4.0]]),
    "a line": line(),
    "a line in float32": (np.ones(5) + np.outer([0, 1, 3, 7.0], np.arange(5))).astype(np.float32),
    "one parameter moves": np.array([[1.0, 2.0, t, 0.0] for t in (0.0, 1.0, 5.0, 6.0)]),
    "start and end in one place": loop(),
    "start is the end on a line": line()[[0, 2, 4, 5, 3, 0]],
    "states that coincide": np.repeat(descent(4, 5), [3, 1, 2, 5], axis=0),
    "all but one the same": np.repeat(descent(2, 5), [9, 1], axis=0),
    "two parameters": descent(9, 2),
    "tiny": descent(9, 5) * 1e-12,
    "huge": descent(9, 5) * 1e12,
}


@pytest.mark.mostly_slow(96)
@pytest.mark.parametrize("method", [*METHODS, *AS_DRAWN], ids=named)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_paths_have_a_surface(name, method):
    path = DEGENERATE[name]
    objective = objective_of(lambda w: (w * w).sum(), path.shape[1])
    surface = compute_surface(path, objective, method, 5)
    assert np.isfinite(surface.loss).all()
    for axis, lines in enumerate((surface.x, surface.y)):
        assert lines[-1] > lines[0]
        assert surface.path[0, axis] in lines
        assert surface.path[-1, axis] in lines
    if isinstance(method, Sampled):
        j, i = (
            int(np.searchsorted(lines, at))
            for lines, at in zip((surface.x, surface.y), surface.path[0], strict=True)
        )
        start = float((path[0].astype(np.float64) ** 2).sum())
        assert surface.loss[i, j] == pytest.approx(start, rel=1e-10)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (np.ones((1, 6)), "one state"),
        (np.ones((5, 6)), "all 5 states are the same"),
        (np.where(np.arange(30).reshape(5, 6) == 20, np.nan, descent(5, 6)), "state 3 "),
    ],
)
def test_paths_without_a_plane_are_refused(path, message):
    with pytest.raises(PathError, match=message):
        compute_surface(path, objective_of(lambda w: (w * w).sum(), 6))


def test_undetermined_plane_is_warned_of():
    path = np.concatenate([3 * np.eye(6)[:1], -3 * np.eye(6)[:1], np.eye(6)[1:3], -np.eye(6)[1:3]])
    with pytest.warns(LosspathWarning, match="not determined"):
        compute_surface(path, objective_of(lambda w: (w * w).sum(), 6), "pca", 4)
