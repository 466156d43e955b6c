"""Sketches of states keep lengths as they say, and refuse what they cannot serve."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath
from losspath import JointPath, Recorder, Sketch, Trajectory, fit_plane, step_cosines, step_sizes
from losspath.errors import (
    ArgumentError,
    DamagedError,
    LosspathWarning,
    ModelError,
    PathError,
    StoreError,
)
from losspath.recording.repair import repair_trajectory
from losspath.recording.sketch import Sketcher

SIZE = 40  # of P = 1,207


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(30, 30), torch.nn.BatchNorm1d(30), torch.nn.Linear(30, 7)
    )


def advance(model, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)


def vector(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double().numpy()


def as_defined(sketch, states):
    """A count sketch, written down number by number."""
    count = states.shape[-1]
    words = np.random.Philox(key=sketch.seed)
    shifts = [int(word) % sketch.size for word in words.random_raw(-(-count // sketch.size))]
    signs = words.random_raw(-(-count // 64)).tolist()
    found = np.zeros((len(states), sketch.size))
    for place in range(count):
        row, column = divmod(place, sketch.size)
        sign = -1.0 if signs[place // 64] >> (place % 64) & 1 else 1.0
        found[:, (column + shifts[row]) % sketch.size] += sign * states[:, place]
    return found


def record(run, sketch=SIZE, steps=12, seed=0, **options):
    model, states = network(seed), []
    with Recorder(run, model, sketch=sketch, **options) as recorder:
        states.append(vector(model))
        for step in range(steps):
            advance(model, step)
            recorder.record(float(step))
            states.append(vector(model))
    return np.array(states)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 70),
    seed=st.integers(0, 2**40),
    parts=st.lists(st.integers(1, 90), min_size=1, max_size=6),
)
def test_it_is_the_count_sketch_however_a_state_is_cut(size, seed, parts):
    states = np.random.default_rng(seed).normal(size=(1, sum(parts)))
    sketch = Sketch(size, seed)
    pieces = torch.from_numpy(states[0]).split(parts)
    found = Sketcher(sketch, sum(parts)).of(pieces).numpy()
    np.testing.assert_allclose(found, as_defined(sketch, states)[0], atol=1e-12)
    np.testing.assert_array_equal(found, sketch.project(states)[0])


def test_large_states_go_through_in_blocks():
    state = np.random.default_rng(0).normal(size=(1, 700_001))
    sketch = Sketch(9_999, 5)
    np.testing.assert_allclose(sketch.project(state), as_defined(sketch, state), atol=1e-11)


@pytest.mark.parametrize(
    "state",
    [np.ones(3000), np.r_[np.ones(2), np.zeros(2998)], np.random.default_rng(1).normal(size=3000)],
    ids=["even", "two numbers", "normal"],
)
def test_lengths_are_as_right_as_it_says(state):
    # Over seeds: the length's square has no bias, and at most the deviation that is stated.
    sketches = [Sketch(50, seed) for seed in range(2000)]
    squares = np.array([np.sum(each.project(state) ** 2) for each in sketches]) / np.sum(state**2)
    stated = 2 * sketches[0].relative_error  # of a square, twice that of a length
    assert abs(squares.mean() - 1) < 4 * stated / np.sqrt(2000)
    assert squares.std() < 1.1 * stated
    if np.count_nonzero(state) > 2:
        assert squares.std() > 0.8 * stated


def test_a_run_keeps_the_sketch_of_each_state(tmp_path):
    states = record(tmp_path / "run", Sketch(SIZE, 3))
    path = Trajectory(tmp_path / "run")
    assert path.sketch == Sketch(SIZE, 3)
    assert path.parameter_count == SIZE
    assert path.dtype == np.float64
    assert path.steps.tolist() == list(range(13))
    np.testing.assert_allclose(path[:], as_defined(Sketch(SIZE, 3), states), atol=1e-12)
    np.testing.assert_array_equal(path[2:9:3], path[:][2:9:3])
    assert path.all_losses.tolist() == list(map(float, range(12)))
    assert path.notes == [
        "states are sketches of 40 numbers: lengths and distances are right to about 11.2%"
    ]
    # A state has 1,207 numbers of four bytes; a sketch 40 of eight.
    assert (tmp_path / "run" / "states.bin").stat().st_size == 13 * SIZE * 8


def test_small_steps_do_not_drown_in_rounding(tmp_path):
    model = network()
    with torch.no_grad():
        model[0].weight.add_(1e3)
    with Recorder(tmp_path / "run", model, sketch=SIZE) as recorder:
        before = vector(model)
        with torch.no_grad():
            model[2].bias[3] += 1e-4
        recorder.record(0.0)
    moved = np.abs(vector(model) - before).max()
    # One number that changes is kept as it is by any sketch.
    assert step_sizes(Trajectory(tmp_path / "run")).sizes[0] == pytest.approx(moved, rel=1e-6)


def test_step_sizes_turns_and_planes_are_those_of_the_states(tmp_path):
    states = record(tmp_path / "run", Sketch(60), steps=30)
    path = Trajectory(tmp_path / "run")
    error = 5 * path.sketch.relative_error
    np.testing.assert_allclose(step_sizes(path).sizes, step_sizes(states).sizes, rtol=error)
    np.testing.assert_allclose(
        step_cosines(path), step_cosines(states), atol=5 / np.sqrt(path.sketch.size)
    )
    shown, true = fit_plane(path).path, fit_plane(states).path
    ratio = shown.explained_variance_ratio[0] / true.explained_variance_ratio[0]
    assert abs(ratio - 1) < error
    own = np.linalg.norm(shown.coordinates - shown.coordinates[0], axis=1)
    np.testing.assert_allclose(
        own, np.linalg.norm(true.coordinates - true.coordinates[0], axis=1), atol=error * own.max()
    )


def test_sketches_have_coordinates_in_a_plane_of_whole_states(tmp_path):
    states = record(tmp_path / "run", Sketch(60), steps=30)
    path = Trajectory(tmp_path / "run")
    plane = fit_plane(states[::6])
    shown, true = plane.projection(path), plane.projection(states)
    off = np.linalg.norm(shown.coordinates - true.coordinates, axis=1)
    assert np.all(off <= 5 * true.residual_norms / np.sqrt(60) + 1e-9)
    np.testing.assert_allclose(shown.residual_norms, true.residual_norms, rtol=0.4, atol=1e-9)
    # States in the plane are where they are, whatever the sketch.
    inside = plane.origin + np.array([[1.0, 2.0], [-3.0, 0.5]]) @ plane.basis.T

    class Inside:
        sketch, layout, digest, dtype = path.sketch, path.layout, "inside", np.dtype(float)
        parameter_count = 60

        def __len__(self):
            return 2

        def read(self, start, stop, out=None):
            rows = path.sketch.project(inside)[start:stop]
            if out is not None:
                out[:] = rows
            return rows

    found = plane.projection(Inside())
    np.testing.assert_allclose(found.coordinates, [[1.0, 2.0], [-3.0, 0.5]], atol=1e-9)
    assert np.all(found.residual_norms < 1e-6)


def test_of_another_network_they_have_none(tmp_path):
    record(tmp_path / "run", Sketch(60))
    plane = fit_plane(np.random.default_rng(0).normal(size=(5, 99)))
    with pytest.raises(ArgumentError, match="sketches of states of 99 parameters"):
        plane.projection(Trajectory(tmp_path / "run"))


def test_what_needs_whole_states_is_refused(tmp_path, capsys):
    from losspath.cli import main

    record(tmp_path / "run")
    path, model = Trajectory(tmp_path / "run"), network()
    before = vector(model)
    objective = losspath.Objective(
        model, torch.randn(8, 30), torch.randint(7, (8,)), torch.nn.functional.cross_entropy
    )
    uses = [
        lambda: path.load_into(model, -1),
        lambda: path.window(2).load_into(model, -1),
        lambda: losspath.compute_surface(path, objective, "averaged", 5),
        lambda: losspath.interpolate(path, objective),
        lambda: losspath.measure_dynamics(path, objective, states=3),
        lambda: losspath.barriers({"a": path, "b": path}, objective),
        lambda: losspath.Landscape(path, objective, "sampled"),
    ]
    for use in uses:
        with pytest.raises(PathError, match=r"keeps sketches of 40 numbers.*second Recorder"):
            use()
    np.testing.assert_array_equal(vector(model), before)
    for command, code in (("steps", 0), ("info", 0), ("surface", 1)):
        with pytest.raises(SystemExit) as end:
            main([command, str(tmp_path / "run")])
        assert end.value.code == code
        assert command == "surface" or "sketches of 40 numbers" in capsys.readouterr().out
    assert "keeps sketches of 40 numbers" in capsys.readouterr().err


def test_runs_are_one_path_if_their_sketches_are_alike(tmp_path):
    for name, sketch in (("a", Sketch(30, 1)), ("b", Sketch(30, 1)), ("c", Sketch(30, 2))):
        record(tmp_path / name, sketch, seed=ord(name))
    a, b, c = (Trajectory(tmp_path / name) for name in "abc")
    joint = JointPath([a, b])
    assert joint.sketch == Sketch(30, 1)
    assert len(fit_plane(joint).path) == 26
    with pytest.raises(PathError, match=r"one size and seed in all runs.*seed=1.*seed=2"):
        JointPath([a, c])


@pytest.mark.parametrize(
    ("sketch", "expected"),
    [
        (0, "sketch as a whole number, at least 1"),
        (2.5, "sketch as a whole number"),
        (True, "sketch as a whole number"),
        (61, "at most 60 numbers for 1,207 parameters.*got 61"),
        (10**9, "at most 2,097,152 numbers"),
    ],
)
def test_a_sketch_that_makes_no_sense_is_refused(tmp_path, sketch, expected):
    with pytest.raises(ArgumentError, match=expected):
        Recorder(tmp_path / "run", network(), sketch=sketch)
    assert not (tmp_path / "run").exists()


def test_recording_goes_on_from_the_same_state_alone(tmp_path):
    states = record(tmp_path / "whole", 30, steps=10)
    record(tmp_path / "run", 30, steps=4)
    model = network()
    with pytest.raises(ModelError, match="not in the state that was recorded at step 4"):
        Recorder(tmp_path / "run", model, sketch=30, existing="resume")
    for step in range(4):
        advance(model, step)
    for other in ({}, {"sketch": Sketch(30, 1)}, {"sketch": 31}):
        with pytest.raises(StoreError, match="cannot go on recording"):
            Recorder(tmp_path / "run", model, existing="resume", **other)
    with Recorder(tmp_path / "run", model, sketch=30, existing="resume") as recorder:
        for step in range(4, 10):
            advance(model, step)
            recorder.record(float(step))
    paths = [Trajectory(tmp_path / name) for name in ("whole", "run")]
    assert paths[0].digest == paths[1].digest
    assert len(states) == len(paths[1])


def test_damage_is_found_and_repaired(tmp_path):
    record(tmp_path / "run")
    file = tmp_path / "run" / "states.bin"
    raw = bytearray(file.read_bytes())
    raw[5 * SIZE * 8 + 7] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DamagedError):
        Trajectory(tmp_path / "run")[5]
    assert repair_trajectory(tmp_path / "run")
    assert Trajectory(tmp_path / "run").steps.tolist() == [0, 1, 2, 3, 4, *range(6, 13)]


def test_an_older_version_would_refuse_it(tmp_path):
    # It reads rows of float32 and float64 alone, by the header's dtype.
    record(tmp_path / "run")
    header = json.loads((tmp_path / "run" / "trajectory.json").read_text())
    assert "sketch" in str(header)
    assert '"dtype":"sketch"' in (tmp_path / "run" / "trajectory.json").read_text().replace(" ", "")


# --------------------------------------------------------------------------------------------------
# Rounded states


def rounded(states):
    return torch.tensor(states, dtype=torch.float32).bfloat16().float().numpy()


@pytest.mark.parametrize("options", [{}, {"every": 3}])
def test_states_are_rounded_to_bfloat16(tmp_path, options):
    states = record(tmp_path / "run", None, dtype="bfloat16", steps=8, **options)
    path = Trajectory(tmp_path / "run")
    assert path.dtype == np.float32
    np.testing.assert_array_equal(path[:], rounded(states[path.steps]))
    assert path[0].dtype == path[:].dtype == np.float32
    np.testing.assert_array_equal(path.read_columns(5, 50, [0, 2]), path[:][[0, 2], 5:50])
    out = np.empty((2, path.parameter_count), np.float32)
    assert path.read(1, 3, out) is out
    np.testing.assert_array_equal(out, path[1:3])
    assert path.is_rounded
    assert path.notes == ["states were rounded to bfloat16, each number by up to 0.4 %"]
    model = network()
    path.load_into(model, -1, buffers=True)
    np.testing.assert_array_equal(vector(model), path[-1])
    rows = len(path) - (options != {})  # the last step is no third one
    assert (tmp_path / "run" / "states.bin").stat().st_size == rows * path.parameter_count * 2


def test_parameters_of_bfloat16_are_kept_as_they_are(tmp_path):
    model = torch.nn.Linear(30, 4).bfloat16()
    with Recorder(tmp_path / "run", model, dtype="bfloat16") as recorder:
        with torch.no_grad():
            model.weight.mul_(1.5)
        recorder.record(0.0)
    path = Trajectory(tmp_path / "run")
    assert path.notes == []
    assert not path.is_rounded
    np.testing.assert_array_equal(path[-1], vector(model))


def test_special_numbers_stay_what_they_are(tmp_path):
    model = torch.nn.Linear(4, 1, bias=False)
    values = torch.tensor([[float("nan"), float("-inf"), -0.0, 1e-40]])
    with torch.no_grad():
        model.weight.copy_(values)
    Recorder(tmp_path / "run", model, dtype="bfloat16").close()
    found = torch.from_numpy(Trajectory(tmp_path / "run")[0])
    wanted = values.bfloat16().float().reshape(-1)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found[1:], wanted[1:])
    assert torch.signbit(found[2])


def test_double_precision_is_not_rounded_to_it(tmp_path):
    with pytest.raises(ModelError, match="float64, which bfloat16 rows do not hold"):
        Recorder(tmp_path / "run", torch.nn.Linear(2, 2).double(), dtype="bfloat16")


def test_steps_that_drown_in_rounding_are_told_of(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model, dtype="bfloat16") as recorder:
        for _ in range(4):
            with torch.no_grad():
                for tensor in model.parameters():
                    tensor.mul_(1 + 1e-5)
            recorder.record(0.0)
    path = Trajectory(tmp_path / "run")
    assert any("once rounded" in note for note in path.notes) == (path.unchanged_steps > 0)
    with pytest.warns(LosspathWarning, match="rounding states to bfloat16 moved them by"):
        step_sizes(path)


def test_rounding_is_as_large_as_the_warning_says():
    from losspath.analysis import steps

    state = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    moved = np.linalg.norm(rounded(state) - state) * np.sqrt(2)

    class Path:
        def read(self, start, stop):
            return rounded(state)[None]

    with pytest.warns(LosspathWarning, match=f"moved them by {moved:.2g}"):
        steps._warn_of_rounding(Path(), np.array([moved]))


def test_a_run_of_bfloat16_goes_on(tmp_path):
    record(tmp_path / "whole", None, dtype="bfloat16", steps=6)
    record(tmp_path / "run", None, dtype="bfloat16", steps=3)
    model = network()
    for step in range(3):
        advance(model, step)
    with Recorder(tmp_path / "run", model, dtype="bfloat16", existing="resume") as recorder:
        for step in range(3, 6):
            advance(model, step)
            recorder.record(float(step))
    assert Trajectory(tmp_path / "run").digest == Trajectory(tmp_path / "whole").digest


def test_rows_larger_than_a_buffer_go_through_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(losspath.recording.recorder, "_BUFFER_BYTES", 64)
    states = record(tmp_path / "run", None, dtype="bfloat16", steps=3)
    np.testing.assert_array_equal(Trajectory(tmp_path / "run")[:], rounded(states))
