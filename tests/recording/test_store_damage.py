"""Torn, cut and flipped bytes of a run: mended by the copy, or refused, never taken for the truth.

What repair makes of them is in test_repair.py; here are runs as a recorder leaves them, with named
values, several sessions, and the newest state of ``every`` > 1.
"""

import os
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import advance, assert_same_run, buffers, loss_at, model_at, network, row, truth

from losspath import Recorder, Trajectory
from losspath.errors import DamagedError, LosspathError, LosspathWarning, StoreError
from losspath.files import read_document, write_document
from losspath.recording import store
from losspath.recording.repair import repair_trajectory
from losspath.recording.store import META, META_COPY, NEWEST, SIDES, STATES

# Of a run that has its states itself.
ALL_FILES = [name for name in store.ALL_FILES if name != store.LINKS]

STEPS = 9
ROWS = truth(STEPS + 3)
SIDES_AT = []  # the side tensors of every state
_model = network()
for _step in range(STEPS + 4):
    SIDES_AT.append(buffers(_model))
    advance(_model, _step)


@pytest.fixture(scope="module", autouse=True)
def _without_syncs():
    """Nothing here is about losing power, and a sync takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda descriptor: None)
        yield


def record_until(directory, model, until, every, **options):
    """As `walks.record`, with a named value."""
    with Recorder(directory, model, every=every, **options) as recorder:
        walk_until(recorder, model, until)


def walk_until(recorder, model, until):
    for step in range(recorder.steps, until):
        advance(model, step)
        recorder.record(loss_at(step), lr=0.5 / (step + 1))


@pytest.fixture(scope="module", params=["closed", "sparse", "cut-off"])
def whole(request, tmp_path_factory):
    """A run of several sessions, and every how many steps a state has a row."""
    run = tmp_path_factory.mktemp("whole") / "run"
    every = 1 if request.param == "closed" else 3
    record_until(run, network(), 3, every)
    record_until(run, model_at(3), 6, every, existing="resume")
    if request.param != "cut-off":
        record_until(run, model_at(6), STEPS, every, existing="resume")
        return run, every
    model = model_at(6)
    with Recorder(run, model, every=every, existing="resume") as recorder:
        walk_until(recorder, model, STEPS - 1)
        recorder.flush()
        copy = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(run, copy)
    return copy, every


def open_run(run):
    """A run, and its notes; None where it is refused."""
    try:
        return Trajectory(run)
    except StoreError:
        return None


def read_true(run, sides=True):
    """Whatever is read is true; returns the steps whose states are read, None for a refusal."""
    path = open_run(run)
    if path is None:
        return None
    found = []
    for index, step in enumerate(path.steps.tolist()):
        try:
            state = path[index]
        except DamagedError:
            continue
        np.testing.assert_array_equal(state, ROWS[step])
        found.append(step)
        try:
            tensors = path.sides(index) if sides else None
        except StoreError:
            continue
        if tensors is not None:
            assert tensors.keys() == SIDES_AT[step].keys()
            for name, tensor in tensors.items():
                assert torch.equal(tensor, SIDES_AT[step][name])
    steps = path.loss_steps.tolist()
    assert path.all_losses.tolist() == [loss_at(step - 1) for step in steps]
    for name, (at, values) in path.values.items():
        assert name == "lr"
        assert values.tolist() == [0.5 / step for step in at.tolist()]
    return found


def everything(run):
    path = Trajectory(run)
    return path.steps.tolist(), path.loss_steps.tolist(), path.values["lr"][0].tolist()


class Damage:
    """One file of a run, damaged and put back."""

    def __init__(self, run, name):
        self.file = run / name
        self.raw = self.file.read_bytes()

    def flipped(self, place, bit):
        changed = bytearray(self.raw)
        changed[place] ^= 1 << bit
        self.file.write_bytes(changed)
        return bytes(changed)

    def cut(self, place):
        self.file.write_bytes(self.raw[:place])
        return self.raw[:place]

    def restore(self):
        self.file.write_bytes(self.raw)


KEPT_TWICE = [name for name in ALL_FILES if name not in (STATES, SIDES, NEWEST)]


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("name", KEPT_TWICE)
def test_what_is_kept_twice_may_be_damaged_once(whole, name):
    """Every byte of the file, one bit of each; and every length."""
    run, _ = whole
    expected, damage, bits = everything(run), Damage(run, name), random.Random(0)
    try:
        for place in range(len(damage.raw)):
            damage.flipped(place, bits.randrange(8))
            assert everything(run) == expected
            if place % 16 == 0:
                assert read_true(run, sides=False) == expected[0]
        for place in range(0, len(damage.raw), 3):
            damage.cut(place)
            assert everything(run) == expected
        damage.file.unlink()
        assert read_true(run) == expected[0]
    finally:
        damage.restore()


@pytest.mark.mostly_slow(1)
def test_every_bit_of_a_row_counts_and_costs_that_row_alone(whole):
    run, _ = whole
    path = Trajectory(run)
    damage, size = Damage(run, STATES), ROWS[0].nbytes
    in_rows = [step for step in path.steps.tolist() if step < STEPS - 1 or path.closed]
    bits = random.Random(1)
    try:
        for place in range(len(damage.raw)):
            damage.flipped(place, bits.randrange(8))
            lost = {in_rows[place // size]}
            assert set(read_true(run, sides=False)) == set(path.steps.tolist()) - lost
    finally:
        damage.restore()


def test_rows_that_are_cut_are_refused_by_a_message_that_says_what_to_do(whole):
    run, _ = whole
    damage = Damage(run, STATES)
    try:
        for place in range(0, len(damage.raw), 7):
            damage.cut(place)
            with pytest.raises(DamagedError, match="losspath repair"):
                Trajectory(run)[:]
    finally:
        damage.restore()


@pytest.mark.slow
def test_every_bit_of_a_side_tensor_counts_and_no_state_is_lost(whole):
    run, _ = whole
    steps, damage, bits = Trajectory(run).steps.tolist(), Damage(run, SIDES), random.Random(2)
    try:
        for place in range(0, len(damage.raw), 2):
            damage.flipped(place, bits.randrange(8))
            assert read_true(run) == steps
        damage.file.unlink()
        assert read_true(run) == steps
    finally:
        damage.restore()


def test_damage_to_the_newest_state_is_noticed(whole):
    run, every = whole
    path = Trajectory(run)
    if path.closed:
        pytest.skip("its newest state has a row")
    assert path.steps.tolist()[-1] % every
    damage = Damage(run, NEWEST)
    try:
        for place in range(0, len(damage.raw), 5):
            damage.flipped(place, place % 8)
            found = read_true(run)  # one of its two places is not in use
            assert found is None or found == path.steps.tolist()
    finally:
        damage.restore()


# --------------------------------------------------------------------------------------------------
# Repaired, and gone on with


@pytest.mark.slow
@settings(deadline=None, max_examples=120)
@given(st.data())
def test_after_any_damage_all_that_is_whole_comes_back_and_recording_goes_on(
    whole, tmp_path_factory, data
):
    source, every = whole
    steps = Trajectory(source).steps.tolist()
    run = tmp_path_factory.mktemp("damage") / "run"
    shutil.copytree(source, run)
    name = data.draw(st.sampled_from([n for n in ALL_FILES if (run / n).exists()]))
    damage = Damage(run, name)
    place = data.draw(st.integers(0, max(0, len(damage.raw) - 1)))
    how = data.draw(st.sampled_from(["flip", "cut", "lose"]))
    if how == "flip" and damage.raw:
        changed = damage.flipped(place, data.draw(st.integers(0, 7)))
    elif how == "cut":
        changed = damage.cut(place)
    else:
        changed = b""
        damage.file.unlink()
    read_true(run)
    repair_trajectory(run)
    assert repair_trajectory(run) == []
    kept = read_true(run) or []
    rows = [step for step in range(0, STEPS + 1, every) if step <= steps[-1]]
    rows += [steps[-1]] * (steps[-1] % every > 0)
    size = ROWS[0].nbytes
    for number, step in enumerate(rows):
        own = slice(number * size, (number + 1) * size)
        in_place = name != STATES or changed[own] == damage.raw[own]
        if step in steps and (in_place or step % every) and not (step % every and name == NEWEST):
            if name == STATES and step % every and Trajectory(source).closed:
                continue  # the last state of a closed run is a row as others
            assert step in kept, (name, how, place)
    everywhere = [file.read_bytes() for file in run.rglob(name)]
    if name not in (STATES, SIDES) and how != "lose" and damage.raw:
        # Nothing is deleted; of a copy of the slots that lacks its end, that is put on.
        left = changed[: len(changed) // 64 * 64] if name.startswith("records") else changed
        assert any(each.startswith(left) for each in everywhere)
    go_on(run, every)
    shutil.rmtree(run.parent)


def go_on(run, every):
    """Recording goes on from the last state before the first hole."""
    path = open_run(run)
    if path is None:
        return
    last = int(path.steps[path.holes[0]]) if path.holes else int(path.steps[-1])
    if path.holes:
        with pytest.raises(StoreError, match="lost"):
            Recorder(run, model_at(int(path.steps[-1])), every=every, existing="resume")
    with catch_warnings():
        record_until(run, model_at(last), STEPS + 2, every, existing="resume", step=last)
    found = read_true(run)
    assert found is not None
    assert set(range(0, STEPS + 3, every)) <= {*found, *range(last)}
    assert max(found) == STEPS + 2


@pytest.mark.parametrize("name", ALL_FILES)
def test_recording_goes_on_after_any_file_is_lost(whole, tmp_path, name):
    source, every = whole
    run = tmp_path / "run"
    shutil.copytree(source, run)
    (run / name).unlink(missing_ok=True)
    repair_trajectory(run)
    go_on(run, every)


def catch_warnings():
    context = warnings.catch_warnings()
    warnings.simplefilter("ignore", LosspathWarning)
    return context


@pytest.mark.parametrize("name", [STATES, SIDES, "records.bin", "records.copy.bin"])
def test_a_tail_is_ignored_by_readers_and_goes_with_the_next_writer(tmp_path, name):
    record_until(tmp_path / "run", network(), STEPS, 1)
    record_until(tmp_path / "other", network(), STEPS + 2, 1)
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes() + b"torn" * 33)
    assert read_true(tmp_path / "run") == list(range(STEPS + 1))
    with catch_warnings():
        record_until(tmp_path / "run", model_at(STEPS), STEPS + 2, 1, existing="resume")
    assert read_true(tmp_path / "run") == list(range(STEPS + 3))
    assert_same_run(tmp_path / "run", tmp_path / "other")


# --------------------------------------------------------------------------------------------------
# Other versions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "is in version 3 of the trajectory format"),
        ({"version": None}, "version None"),
        ({"format": "something else"}, "is not a losspath trajectory"),
    ],
)
def test_another_version_or_format_is_refused_by_name(tmp_path, change, message):
    run = tmp_path / "run"
    record_until(run, network(), STEPS, 1)
    for name in (META, META_COPY):
        write_document(run / name, {**read_document(run / name), **change})
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    calls = [
        lambda: Trajectory(run),
        lambda: Recorder(run, model_at(STEPS), existing="resume"),
        lambda: repair_trajectory(run),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=message) as error:
            call()
        assert not isinstance(error.value, DamagedError)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_keys_of_a_header_that_are_not_known_are_passed_over(tmp_path):
    run = tmp_path / "run"
    record_until(run, network(), STEPS, 1)
    for name in (META, META_COPY):
        write_document(run / name, {**read_document(run / name), "of the future": [1, 2]})
    assert read_true(run) == list(range(STEPS + 1))


def test_a_header_that_is_gone_in_every_copy_is_refused_and_nothing_is_wiped(tmp_path):
    run = tmp_path / "run"
    record_until(run, network(), STEPS, 1)
    for name in (META, META_COPY):
        (run / name).unlink()
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    for call in (
        lambda: Trajectory(run),
        lambda: repair_trajectory(run),
        lambda: Recorder(run, model_at(STEPS)),
        lambda: Recorder(run, model_at(STEPS), existing="resume"),
    ):
        with pytest.raises(LosspathError):
            call()
    after = {f.name: f.read_bytes() for f in run.iterdir()}
    assert after == before


def test_rows_are_what_anything_can_read(tmp_path):
    record_until(tmp_path / "run", network(), STEPS, 1)
    expected = np.stack([row(model_at(step)) for step in range(STEPS + 1)])
    assert (tmp_path / "run" / STATES).read_bytes() == expected.astype("<f4").tobytes()
