import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import losspath.geometry.gram
import losspath.geometry.pca
from losspath import Recorder, StepSizes, Trajectory, step_cosines, step_sizes
from losspath.errors import ArgumentError, PathError, StoreError
from losspath.recording.trajectory import as_path


@pytest.fixture(autouse=True, params=["states whole", "states by stretches"])
def _large(request, monkeypatch):
    if request.param == "states by stretches":
        monkeypatch.setattr(losspath.geometry.gram, "_LARGE", 0)
        monkeypatch.setattr(losspath.geometry.gram, "_STRETCH_BYTES", 3 * 50 * 8)


def walk(count=50, width=7, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.standard_normal((count, width)), axis=0).astype(dtype)


def norms(states):
    return np.linalg.norm(np.diff(states.astype(np.float64), axis=0), axis=1)


def steps_of(sizes, losses=None, steps=None):
    sizes = np.asarray(sizes, np.float64)
    losses = np.full(len(sizes), np.nan) if losses is None else np.asarray(losses, np.float64)
    steps = np.arange(len(sizes) + 1) if steps is None else np.asarray(steps)
    return StepSizes(sizes, steps, losses, {"path_digest": "x"})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Blocks of one state, of a few (the last one shorter, or of a single state), and of all.
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 49, 50, 1000])
def test_sizes_equal_the_norms_of_the_differences(monkeypatch, dtype, rows):
    states = walk(dtype=dtype)
    number_bytes = 2 * states.itemsize + 8
    monkeypatch.setattr(losspath.geometry.pca, "_BLOCK_BYTES", rows * number_bytes * 7)
    steps = step_sizes(states)
    assert steps.sizes.dtype == np.float64
    rel = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(steps.sizes, norms(states), rtol=rel)


def test_small_steps_far_from_the_origin_keep_their_digits():
    states = np.float32(1000) + np.float32(1 / 1024) * np.arange(20, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(step_sizes(states).sizes, np.full(19, 1 / 1024))


def test_many_parameters_are_summed_in_double_precision():
    states = np.zeros((2, 300_001), np.float32)
    states[1] = 1e-4
    states[1, 0] = 1.0
    np.testing.assert_allclose(step_sizes(states).sizes, norms(states), rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_states_in_one_place_are_no_step_apart(monkeypatch, rows):
    monkeypatch.setattr(losspath.geometry.pca, "_BLOCK_BYTES", rows * 16 * 7)
    states = walk(10)[[0, 0, 1, 2, 2, 2, 3, 3]]
    sizes = step_sizes(states).sizes
    assert (sizes == 0).tolist() == [True, False, False, True, True, False, True]


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_states_that_are_not_finite_spoil_their_own_steps_alone(monkeypatch, rows):
    monkeypatch.setattr(losspath.geometry.pca, "_BLOCK_BYTES", rows * 16 * 7)
    states = walk(12)
    states[3, 2] = np.nan
    states[8, 0] = np.inf
    sizes = step_sizes(states).sizes
    assert np.isnan(sizes[2:4]).all()
    assert (sizes[7:9] == np.inf).all()
    np.testing.assert_allclose(
        np.delete(sizes, [2, 3, 7, 8]), np.delete(norms(states), [2, 3, 7, 8]), 1e-6
    )


def record(directory, steps, every):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    losses = []
    with Recorder(directory, model, every=every) as recorder:
        for _ in range(steps):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
            losses.append(loss.item())
    return Trajectory(directory), np.array(losses)


def test_a_recorded_path_has_its_losses_beside_its_steps(tmp_path):
    path, losses = record(tmp_path / "run", 23, every=1)
    steps = step_sizes(path)
    np.testing.assert_allclose(steps.sizes, norms(path[:]), rtol=1e-6)
    np.testing.assert_array_equal(steps.losses, losses)
    assert steps.steps.tolist() == list(range(24))
    assert steps.provenance == {"path_digest": path.digest, "states": 24}


def test_a_path_with_states_left_out_says_so(tmp_path):
    path, losses = record(tmp_path / "run", 20, every=6)
    steps = step_sizes(path)
    assert steps.steps.tolist() == [0, 6, 12, 18, 20]
    np.testing.assert_allclose(steps.sizes, norms(path[:]), rtol=1e-6)
    np.testing.assert_array_equal(steps.losses, losses[[0, 6, 12, 18]])
    middles, _, _ = steps.binned()
    assert middles.tolist() == [3, 9, 15, 19]


def test_a_window_of_a_path(tmp_path):
    path, losses = record(tmp_path / "run", 20, every=1)
    steps = step_sizes(path.window(4, 17, 3))
    assert steps.steps.tolist() == [4, 7, 10, 13, 16]
    np.testing.assert_allclose(steps.sizes, norms(path[4:17:3]), rtol=1e-6)
    np.testing.assert_array_equal(steps.losses, losses[[4, 7, 10, 13]])


def test_an_array_has_no_losses():
    steps = step_sizes(walk(5))
    assert np.isnan(steps.losses).all()
    assert steps.losses.shape == (4,)
    assert steps.steps.tolist() == [0, 1, 2, 3, 4]


def test_the_first_and_the_last_bin_are_their_own():
    sizes = np.arange(1000.0) ** 2
    losses = 1 / (1 + np.arange(1000.0))
    middles, means, loss = steps_of(sizes, losses).binned(100)
    assert len(middles) == len(means) == len(loss) == 100
    assert (middles[0], middles[1], middles[-1]) == (5, 15, 995)
    for place, steps in ((0, slice(0, 10)), (1, slice(10, 20)), (-1, slice(990, 1000))):
        assert means[place] == pytest.approx(sizes[steps].mean(), rel=1e-12)
        assert loss[place] == pytest.approx(losses[steps].mean(), rel=1e-12)


def test_the_thesis_numbers_fall_into_a_hundred_bins():
    sizes = np.random.default_rng(0).random(12194)
    middles, means, _ = steps_of(sizes).binned()
    assert len(means) == 100
    assert means[0] == pytest.approx(sizes[:122].mean(), rel=1e-12)
    assert means[-1] == pytest.approx(sizes[12072:].mean(), rel=1e-12)
    assert middles[-1] == (12072 + 12194) / 2


@pytest.mark.parametrize("count", [1, 2, 99, 100])
def test_a_short_path_has_a_bin_for_each_step(count):
    sizes = np.arange(1.0, count + 1)
    middles, means, _ = steps_of(sizes).binned(100)
    np.testing.assert_array_equal(means, sizes)
    np.testing.assert_array_equal(middles, np.arange(count) + 0.5)


def test_bins_stand_in_the_middle_of_their_optimiser_steps():
    steps = steps_of([1, 2, 3, 4, 5], steps=[0, 10, 20, 30, 40, 43])
    middles, means, _ = steps.binned(2)
    assert middles.tolist() == [10, 31.5]
    assert means.tolist() == [1.5, 4]


@settings(deadline=None, max_examples=150)
@given(
    count=st.integers(1, 500),
    bins=st.integers(1, 160),
    seed=st.integers(0, 2**32 - 1),
)
def test_bins_cover_every_step_once(count, bins, seed):
    rng = np.random.default_rng(seed)
    sizes, losses = rng.random(count), rng.standard_normal(count)
    middles, means, loss = steps_of(sizes, losses).binned(bins)
    assert len(middles) == len(means) == len(loss) == min(bins, count)
    edges = [0]  # each middle is half-way between two edges
    for middle in middles:
        edges.append(round(2 * middle - edges[-1]))
    widths = np.diff(edges)
    assert edges[-1] == count
    assert widths.min() >= 1
    assert np.ptp(widths) <= 1
    for values, binned in ((sizes, means), (losses, loss)):
        expected = [part.mean() for part in np.split(values, edges[1:-1])]
        np.testing.assert_allclose(binned, expected, rtol=1e-9, atol=1e-12)
        assert np.sum(binned * widths) == pytest.approx(values.sum(), rel=1e-9, abs=1e-9)


def test_what_is_not_finite_spoils_its_own_bin_alone():
    sizes, losses = np.ones(30), np.ones(30)
    sizes[12], losses[3], losses[29] = np.inf, np.nan, np.nan
    _, means, loss = steps_of(sizes, losses).binned(10)
    assert np.flatnonzero(means != 1).tolist() == [4]
    assert means[4] == np.inf
    assert np.flatnonzero(np.isnan(loss)).tolist() == [1, 9]


@pytest.mark.parametrize("bins", [0, -3])
def test_no_bins_are_refused(bins):
    with pytest.raises(ArgumentError, match="at least one bin"):
        steps_of([1, 2]).binned(bins)


def test_a_path_of_one_state_has_no_steps():
    with pytest.raises(PathError, match="no steps"):
        step_sizes(walk(1))


@pytest.mark.parametrize("states", [np.zeros(5), np.zeros((0, 3)), np.zeros((3, 2), int)])
def test_what_is_no_path_is_refused(states):
    with pytest.raises(PathError, match="expected states"):
        step_sizes(states)


def test_save_and_load(tmp_path):
    path, _ = record(tmp_path / "run", 9, every=2)
    steps = step_sizes(path)
    steps.losses[1], steps.sizes[2] = np.nan, np.inf
    steps.save(tmp_path / "steps.npz")
    again = StepSizes.load(tmp_path / "steps.npz")
    for name in ("sizes", "steps", "losses"):
        np.testing.assert_array_equal(getattr(again, name), getattr(steps, name))
        assert getattr(again, name).dtype == getattr(steps, name).dtype
    assert again.provenance == steps.provenance
    with pytest.raises(StoreError, match="there is no file"):
        StepSizes.load(tmp_path / "missing.npz")


def test_averaged_over_parts_the_bins_stay_where_they_are():
    sizes = np.random.default_rng(0).random(12194)
    steps = steps_of(sizes, losses=1 + sizes)
    fewer = steps.averaged(1000)
    assert len(fewer.sizes) == len(fewer.losses) == len(fewer.steps) - 1 == 1000
    assert fewer.sizes[0] == pytest.approx(sizes[:12].mean(), rel=1e-12)
    assert (fewer.steps[0], fewer.steps[-1]) == (0, 12194)
    np.testing.assert_array_equal(fewer.binned(100)[0], steps.binned(100)[0])
    for one, other in zip(fewer.binned(100)[1:], steps.binned(100)[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01)  # parts differ by a step in twelve
    assert fewer.provenance["averaged"] == 1000
    assert steps.averaged(12194) is steps
    with pytest.raises(ArgumentError, match="at least one"):
        steps.averaged(0)


class Holed:
    """A path some of whose states were lost."""

    def __init__(self, states, lost):
        kept = [i for i in range(len(states)) if i not in lost]
        self._path = as_path(states[kept])
        self.steps = np.array(kept)
        self.losses = 1.0 + np.array(kept[:-1])
        self.holes = tuple(np.flatnonzero(np.diff(kept) > 1).tolist())

    def __len__(self):
        return len(self._path)

    def read(self, *arguments):
        return self._path.read(*arguments)

    def __getattr__(self, name):
        return getattr(self._path, name)


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_what_lies_across_lost_states_is_not_known(monkeypatch, rows):
    monkeypatch.setattr(losspath.geometry.pca, "_BLOCK_BYTES", rows * 16 * 7)
    states = walk(20)
    path = Holed(states, lost={5, 6, 12})  # the sizes of 4→7 and 11→13
    steps = step_sizes(path)
    sizes = norms(states)
    kept = [(i, i + 1) for i in range(19)]
    expected = [sizes[a] for a, b in kept if not {a, b} & {5, 6, 12}]
    assert np.flatnonzero(np.isnan(steps.sizes)).tolist() == [4, 9]
    np.testing.assert_allclose(steps.sizes[np.isfinite(steps.sizes)], expected, rtol=1e-6)
    assert steps.holes == (4, 9)
    differences = np.diff(states.astype(float), axis=0)
    cosines = step_cosines(path)
    number = {kept: i for i, kept in enumerate(path.steps.tolist())}
    for step in range(1, 19):
        before, here, after = (number.get(step + k) for k in (-1, 0, 1))
        if None not in (before, here, after):
            one, two = differences[step - 1], differences[step]
            value = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
            assert cosines[before] == pytest.approx(value, abs=1e-6)
            cosines[before] = 9.0
    assert np.flatnonzero(np.isnan(cosines)).tolist() == [3, 4, 8, 9]
    assert ((cosines == 9.0) | np.isnan(cosines)).all()


def test_bins_leave_out_what_is_not_known_and_say_so():
    states = walk(21)
    steps = step_sizes(Holed(states, lost={5, 12}))
    _, means, losses = steps.binned(3)
    parts = np.array_split(steps.sizes, 3)
    np.testing.assert_allclose(means, [np.nanmean(part) for part in parts])
    assert steps.known(3).tolist() == [5, 5, 6]
    np.testing.assert_allclose(losses, [part.mean() for part in np.array_split(steps.losses, 3)])
    each = steps.binned(100)[1]
    np.testing.assert_array_equal(np.isnan(each), np.isnan(steps.sizes))
    assert steps.known(100).tolist() == [int(np.isfinite(size)) for size in steps.sizes]
    fewer = steps.averaged(17)  # a part is a step, but for one
    assert fewer.holes == tuple(np.flatnonzero(np.isnan(fewer.sizes)).tolist())
    np.testing.assert_array_equal(fewer.known(100) == 0, np.isnan(fewer.sizes))
    assert steps.averaged(3).holes == ()


def test_a_state_that_is_not_finite_spoils_its_bin_beside_a_hole():
    states = walk(21)
    states[1] = np.nan
    steps = step_sizes(Holed(states, lost={5}))
    assert np.isnan(steps.binned(2)[1]).tolist() == [True, False]


def test_holes_are_kept_in_the_file(tmp_path):
    steps = step_sizes(Holed(walk(20), lost={5}))
    steps.save(tmp_path / "steps.npz")
    again = StepSizes.load(tmp_path / "steps.npz")
    assert again.holes == (4,)
    np.testing.assert_array_equal(again.binned(4)[1], steps.binned(4)[1])


class Shared(nn.Module):
    """Two parameters that are one memory, and a frozen one that is moved by hand."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.turned = nn.Parameter(self.weight.data.T)
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)


def test_memory_that_two_parameters_share_counts_once_and_frozen_ones_do_not(tmp_path):
    torch.manual_seed(0)
    model, moves = Shared(), [torch.randn(3, 4) for _ in range(4)]
    with Recorder(tmp_path / "run", model) as recorder:
        for move in moves:
            with torch.no_grad():
                model.weight += move
                model.frozen += 100.0
            assert torch.equal(model.turned, model.weight.T)
            recorder.record(1.0)
    sizes = step_sizes(Trajectory(tmp_path / "run")).sizes
    np.testing.assert_allclose(sizes, [move.norm().item() for move in moves], rtol=1e-5)
