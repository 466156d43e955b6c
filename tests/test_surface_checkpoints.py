import dataclasses

import numpy as np
import pytest

from cases import CountedPath, Watched, assert_same, classifier, descent, problem
from losspath import Grid, compute_surface, fit_plane
from losspath.errors import DamagedError, StoreError
from losspath.geometry import blend
from losspath.methods import Averaged, AveragedND
from losspath.surface import StateLosses
from losspath.thesis.as_drawn import AveragedAsPrinted

DESCENT = problem("descent", descent(12, 6))


class Stop(Exception):
    pass


def stop_at(count):
    """A progress callback that stops the computation after so many points."""

    def progress(done, total):
        if done == count:
            raise Stop

    return progress


@pytest.mark.parametrize("method", ["averaged", "sampled", "pca"])
@pytest.mark.parametrize("points", [1, 4, 1000])
def test_a_stopped_surface_equals_one_that_was_not(tmp_path, monkeypatch, method, points):
    # Groups of so many points, which a stop may fall into or between.
    monkeypatch.setattr(blend, "_GROUP_BYTES", points * 8 * 15)
    objective, path = classifier()
    whole = compute_surface(path, objective, method, 5)
    for count in (1, 4, 7, 24, len(whole.loss.reshape(-1))):
        file = tmp_path / f"{count}.journal"
        with pytest.raises(Stop):
            compute_surface(path, objective, method, 5, checkpoint=file, progress=stop_at(count))
        assert_same(compute_surface(path, objective, method, 5, checkpoint=file), whole)


def test_a_surface_stopped_again_and_again_evaluates_every_point_once(tmp_path):
    states = StateLosses(np.array([0, 11]), np.zeros(2))
    objective = DESCENT.objective(Watched)
    whole = compute_surface(DESCENT.path, objective, "averaged", 5, states=states)
    near_path = 60  # vectors that say how far the surface holds
    plain = [vector.tobytes() for vector in objective.vectors][-whole.loss.size - near_path :]

    def attempt(progress=None):
        watched = DESCENT.objective(Watched)
        asked.append(watched)
        return compute_surface(
            DESCENT.path, watched, "averaged", 5, states=states, checkpoint=file, progress=progress
        )

    asked, file = [], tmp_path / "points"
    for count in range(3, whole.loss.size, 3):
        with pytest.raises(Stop):
            attempt(stop_at(count))
    assert_same(attempt(), whole)
    probes = {DESCENT.path[i].tobytes() for i in (0, 6, 11)}  # tell objectives apart
    vectors = [v.tobytes() for watched in asked for v in watched.vectors]
    assert [vector for vector in vectors if vector not in probes] == plain
    asked.clear()
    attempt()
    assert {vector.tobytes() for vector in asked[0].vectors} <= probes


def test_groups_that_are_done_are_not_blended_again(tmp_path, monkeypatch):
    monkeypatch.setattr(blend, "_GROUP_BYTES", 10 * 8 * 6)
    path = CountedPath(DESCENT.path)
    states = StateLosses(np.array([0, 11]), np.zeros(2))
    options = {"plane": fit_plane(path), "states": states, "checkpoint": tmp_path / "points"}
    options["fidelity"] = False
    with pytest.raises(Stop):
        compute_surface(path, DESCENT.objective(), "averaged", 5, progress=stop_at(20), **options)
    path.reads.clear()
    compute_surface(path, DESCENT.objective(), "averaged", 5, **options)
    # Three to tell objectives apart, and one pass for the points after the 20th.
    assert sorted(path.reads) == sorted([0, 6, 11, *range(12)])


def test_nothing_is_kept_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute_surface(DESCENT.path, DESCENT.objective(), "pca", 4)
    assert not list(tmp_path.iterdir())


def other_computations():
    path, objective = DESCENT.path, DESCENT.objective()
    moved = path.copy()
    moved[3, 2] += 1e-9
    steeper = dataclasses.replace(DESCENT, matrix=2 * DESCENT.matrix)
    finer = {"grid": Grid(np.arange(4.0), np.arange(5.0))}
    return {
        "states": (moved, objective, Averaged(), {}),
        "method": (path, objective, AveragedND(), {}),
        "temperature": (path, objective, Averaged(temperature=1.001), {}),
        "as printed": (path, objective, AveragedAsPrinted(), {}),
        "resolution": (path, objective, Averaged(), {"resolution": 6}),
        "grid": (path, objective, Averaged(), finer),
        "loss": (path, steeper.objective(), Averaged(), {}),
    }


@pytest.mark.parametrize("what", list(other_computations()))
def test_checkpoint_of_another_computation_is_refused(tmp_path, what):
    file = tmp_path / "points"
    path, objective, method, options = other_computations()[what]
    compute_surface(DESCENT.path, DESCENT.objective(), Averaged(), 5, checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(StoreError, match="another computation"):
        compute_surface(path, objective, method, **{"resolution": 5, **options}, checkpoint=file)
    assert file.read_bytes() == before


def test_damaged_checkpoint_is_refused_and_a_torn_line_computed_again(tmp_path):
    file = tmp_path / "points"
    objective = DESCENT.objective()
    whole = compute_surface(DESCENT.path, objective, "averaged", 5, checkpoint=file)
    written = file.read_bytes()
    for cut in (1, 7, 40, len(written) - 3):
        file.write_bytes(written[:-cut])
        assert_same(compute_surface(DESCENT.path, objective, "averaged", 5, checkpoint=file), whole)
        assert sorted(file.read_bytes().splitlines()) == sorted(written.splitlines())
    middle = len(written) // 2
    digit = written.index(b"1", middle)
    file.write_bytes(written[:digit] + b"2" + written[digit + 1 :])
    with pytest.raises(DamagedError):
        compute_surface(DESCENT.path, objective, "averaged", 5, checkpoint=file)


@pytest.mark.parametrize("content", [b'{"learning_rate": 0.1}', b"first line\nlast line", b"\x00"])
def test_a_file_that_is_no_checkpoint_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "notes"
    file.write_bytes(content)
    with pytest.raises(StoreError):
        compute_surface(DESCENT.path, DESCENT.objective(), "pca", 4, checkpoint=file)
    assert file.read_bytes() == content
