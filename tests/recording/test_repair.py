"""Repair keeps every row whose digest is right, deletes nothing, and says what is lost."""

import contextlib
import errno
import itertools
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from old_format import FILES, Walk
from walks import network, record, truth

import losspath.recording.recorder
from losspath import Recorder, Trajectory
from losspath.errors import BusyError, DamagedError, StoreError
from losspath.files import only_writer, read_document, write_document
from losspath.recording import slots, store
from losspath.recording.header import read_header
from losspath.recording.migrate import migrate
from losspath.recording.repair import repair_trajectory

# Of a run that has its states itself.
ALL_FILES = [name for name in store.ALL_FILES if name != store.LINKS]

STEPS = 8


def snapshot(directory):
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def assert_kept(before, directory):
    """Everything that was there is there still, in its place or aside."""
    after = {(Path(name).name, raw) for name, raw in snapshot(directory).items()}
    for name, raw in before.items():
        own = name.startswith(("migrating/", ".")) or Path(name).name == "aside.json"
        # A copy that only lacks its end is completed.
        longer = (
            each.startswith(raw[: -(len(raw) % 64) or None]) for n, each in after if n == name
        )
        assert own or (Path(name).name, raw) in after or ("records" in name and any(longer)), name


def damaged(raw, how, place=None, bit=0):
    raw = bytearray(raw)
    if how == "cut":
        del raw[place:]
    else:
        raw[place] ^= 1 << bit
    return bytes(raw)


class Judge:
    """What may be read of a damaged run, and what must be read of it once it is repaired."""

    def __init__(self, walk, run):
        self.walk, self.run = walk, run

    def read(self):
        """Whatever is read is true; returns the steps of the states that are, or None."""
        try:
            path = Trajectory(self.run)
        except StoreError:
            return None
        steps = path.steps.tolist()
        assert set(steps) <= set(self.walk.steps)
        found = []
        for index, step in enumerate(steps):
            try:
                row = path[index]
            except StoreError:
                continue
            np.testing.assert_array_equal(row, self.walk.parameters[step])
            found.append(step)
            try:
                sides = path.sides(index)
            except StoreError:
                continue
            assert sides.keys() == self.walk.buffers[step].keys()
            for name, tensor in sides.items():
                assert torch.equal(tensor, self.walk.buffers[step][name].to(tensor.dtype))
        for step, loss in zip(path.loss_steps.tolist(), path.all_losses.tolist(), strict=True):
            assert np.isnan(loss) or loss == self.walk.losses[step - 1]
        for index, loss in enumerate(path.losses.tolist()):
            assert np.isnan(loss) or loss == self.walk.losses[steps[index]]
        gaps = [
            index
            for index, (one, other) in enumerate(itertools.pairwise(steps))
            if self.walk.steps.index(other) - self.walk.steps.index(one) > 1
        ]
        assert list(path.holes) == gaps
        return found

    def repair(self, expected):
        """Repairs, twice; all of the expected states are there."""
        before = snapshot(self.run)
        lines = repair_trajectory(self.run)
        assert_kept(before, self.run)
        after = snapshot(self.run)
        assert lines or after == before
        assert repair_trajectory(self.run) == []
        assert snapshot(self.run) == after
        found = self.read()
        assert set(expected) <= set(found or []), (lines, expected, found)
        return lines


@pytest.fixture(scope="module", autouse=True)
def _without_syncs():
    """Nothing here is about losing power, and a sync takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda descriptor: None)
        yield


@pytest.fixture(scope="module", params=[1, 3])
def walk(request):
    return Walk(STEPS, request.param)


@pytest.fixture(scope="module")
def old(walk, tmp_path_factory):
    return walk.write(tmp_path_factory.mktemp("old") / "run")


@pytest.fixture(scope="module")
def new(walk, tmp_path_factory):
    run = walk.write(tmp_path_factory.mktemp("new") / "run")
    migrate(run)
    shutil.rmtree(run / "aside-1")
    return run


def whole_rows(walk, raw, size):
    """The steps whose rows in `raw` are what they were."""
    rows = [row.tobytes()[:size] for row in (walk.rows[step] for step in walk.steps)]
    return [
        step
        for number, (step, row) in enumerate(zip(walk.steps, rows, strict=True))
        if raw[number * size : (number + 1) * size] == row
    ]


# --------------------------------------------------------------------------------------------------
# The second format


def copy_of(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.mark.parametrize("name", ALL_FILES)
def test_any_one_file_lost(walk, new, tmp_path, name):
    run = copy_of(new, tmp_path)
    judge = Judge(walk, run)
    if not (run / name).exists():
        return
    (run / name).unlink()
    kept = [] if name == "states.bin" else walk.steps
    if name not in ("states.bin", "sides.bin"):
        assert judge.read() == walk.steps  # the other copy has it
        assert Trajectory(run).all_losses.tolist() == walk.losses
    lines = judge.repair(kept)
    assert lines
    if name not in ("states.bin", "sides.bin"):
        assert {n: r for n, r in snapshot(run).items() if "aside" not in n} == snapshot(new)


@pytest.mark.mostly_slow(6)
@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("how", ["cut", "flip"])
def test_any_one_file_cut_or_flipped_anywhere(walk, new, tmp_path, name, how):
    if not (new / name).exists():
        return
    raw = (new / name).read_bytes()
    size = 4 * walk.parameters[0].size
    moments = random.Random(f"{name} {how} {walk.every}")
    run = copy_of(new, tmp_path)
    judge = Judge(walk, run)
    for place in sorted(moments.sample(range(len(raw)), min(len(raw), 40))):
        bad = damaged(raw, how, place, moments.randrange(8))
        (run / name).write_bytes(bad)
        expected = whole_rows(walk, bad, size) if name == "states.bin" else walk.steps
        found = judge.read()
        if name not in ("states.bin", "sides.bin"):
            assert found == walk.steps
            assert Trajectory(run).all_losses.tolist() == walk.losses
        judge.repair(expected)
        if name in ("states.bin", "sides.bin"):
            assert Trajectory(run).all_losses.tolist() == walk.losses if expected else True
        else:
            sound = {n: r for n, r in snapshot(run).items() if "aside" not in n}
            assert sound == snapshot(new)
        shutil.rmtree(run)
        shutil.copytree(new, run)


def test_a_sound_run_is_left_byte_for_byte(walk, old, new, tmp_path):
    for number, run in enumerate((old, new)):
        copy = Path(shutil.copytree(run, tmp_path / str(number)))
        assert repair_trajectory(copy) == []
        assert snapshot(copy) == snapshot(run)


def test_a_copy_that_a_killed_writer_did_not_come_to_is_completed(new, walk, tmp_path):
    run = copy_of(new, tmp_path)
    for name in ("records.bin", "records.copy.bin"):  # as before the run was closed
        (run / name).write_bytes((run / name).read_bytes()[:-64])
    raw = (run / "records.bin").read_bytes()
    (run / "records.copy.bin").write_bytes(raw[:-100])
    assert Trajectory(run).steps.tolist() == walk.steps
    lines = Judge(walk, run).repair(walk.steps)
    assert lines == ["records.copy.bin was not whole; written anew"]
    assert (run / "records.copy.bin").read_bytes() == raw
    assert not list(run.glob("aside-*"))  # it had nothing of its own


def test_what_is_lost_is_said_with_its_steps_and_the_holes(new, walk, tmp_path):
    run = copy_of(new, tmp_path)
    size = 4 * walk.parameters[0].size
    raw = bytearray((run / "states.bin").read_bytes())
    raw[size + 3] ^= 128
    (run / "states.bin").write_bytes(raw)
    with pytest.raises(DamagedError, match="losspath repair"):
        Trajectory(run)[:]
    lines = " | ".join(repair_trajectory(run))
    lost = walk.steps[1]
    assert f"1 states are lost, as their rows have other bytes than were recorded: step {lost}" in (
        lines
    )
    assert f"{len(walk.steps) - 1} states are kept, the last at step {STEPS}" in lines
    assert "the run has holes after step 0" in lines
    assert "moved the old records.bin to aside-1" in lines
    path = Trajectory(run)
    assert path.holes == (0,)
    assert path.steps.tolist() == [step for step in walk.steps if step != lost]
    assert (run / "states.bin").read_bytes() == raw
    assert path.losses.tolist()[0] == walk.losses[0]


def test_records_damaged_in_both_copies_cost_themselves_alone(new, walk, tmp_path):
    from losspath.recording import slots

    run = copy_of(new, tmp_path)
    table = np.frombuffer((run / "records.bin").read_bytes(), slots.SLOT)
    (place,) = np.flatnonzero((table["kind"] == slots.RECORD) & (table["step"] == walk.steps[1]))
    for name in ("records.bin", "records.copy.bin"):
        raw = bytearray((run / name).read_bytes())
        raw[int(place) * 64 + 20] ^= 2
        (run / name).write_bytes(raw)
    with pytest.raises(DamagedError, match="losspath repair"):
        Trajectory(run)
    lines = Judge(walk, run).repair([step for step in walk.steps if step != walk.steps[1]])
    assert any("right in neither copy" in line for line in lines)
    path = Trajectory(run)
    assert path.holes == (0,)
    if walk.every == 1:
        assert np.isnan(path.losses[0])


def test_a_lost_buffer_costs_no_loss(new, walk, tmp_path):
    """A side tensor lies between the record of a state and the one that tells its loss."""
    run = copy_of(new, tmp_path)
    raw = bytearray((run / "sides.bin").read_bytes())
    raw[-9] ^= 1
    (run / "sides.bin").write_bytes(raw)
    lines = Judge(walk, run).repair(walk.steps)
    assert any("buffers or frozen parameters of" in line for line in lines)
    path = Trajectory(run)
    assert path.losses.tolist() == [walk.losses[step] for step in walk.steps[:-1]]
    assert path.holes == ()
    with pytest.raises(StoreError):
        path.sides(len(path) - 1)


@pytest.mark.parametrize("format_", [1, 2])
def test_where_nothing_can_be_renamed_nothing_is_done(
    walk, old, new, tmp_path, monkeypatch, format_
):
    run = copy_of(old if format_ == 1 else new, tmp_path)
    raw = bytearray((run / "states.bin").read_bytes())
    raw[5] ^= 1
    (run / "states.bin").write_bytes(raw)
    before = snapshot(run)

    def refuse(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(StoreError, match="cross-device"):
            repair_trajectory(run)
    assert snapshot(run) == before
    assert not list(run.glob("aside-*"))
    Judge(walk, run).repair(walk.steps[1:])


class Stop(BaseException):
    """As a kill."""


@pytest.mark.parametrize("format_", [1, 2])
def test_a_repair_that_is_stopped_anywhere_can_be_done_again(walk, old, new, tmp_path, format_):
    from test_migrate import guard

    size = len(walk.rows[0].tobytes()) if format_ == 1 else 4 * walk.parameters[0].size
    for number in itertools.count():
        run = copy_of(old if format_ == 1 else new, tmp_path)
        raw = bytearray((run / "states.bin").read_bytes())
        raw[size + 5] ^= 1
        (run / "states.bin").write_bytes(raw)
        before, left, stopped = snapshot(run), [number], []

        def allow(left=left, stopped=stopped):
            left[0] -= 1
            if left[0] < 0:
                stopped.append(True)
                raise Stop

        with pytest.MonkeyPatch.context() as patch:
            guard(patch, run, allow)
            with contextlib.suppress(Stop):
                repair_trajectory(run)
        assert_kept(before, run)
        judge = Judge(walk, run)
        judge.read()
        judge.repair([step for step in walk.steps if step != walk.steps[1]])
        shutil.rmtree(run)
        if not stopped:
            break
    assert number > 10


def test_repair_waits_for_no_writer(new):
    with only_writer(new / ".lock", "to it"), pytest.raises(BusyError):
        repair_trajectory(new)


@pytest.mark.parametrize("format_", [1, 2])
def test_what_is_of_another_version_or_no_run_is_refused_and_left(old, new, tmp_path, format_):
    with pytest.raises(StoreError, match="holds no recorded trajectory"):
        repair_trajectory(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for change, message in (({"version": 3}, "version 3"), ({"format": "x"}, "not a losspath")):
        run = copy_of(old if format_ == 1 else new, tmp_path)
        for name in ("trajectory.json", "trajectory.copy.json"):
            if (run / name).exists():
                write_document(run / name, {**read_document(run / name), **change})
        before = snapshot(run)
        with pytest.raises(StoreError, match=message) as error:
            repair_trajectory(run)
        assert not isinstance(error.value, DamagedError)
        assert snapshot(run) == before
        shutil.rmtree(run)


def test_a_header_lost_in_every_copy_is_refused_and_nothing_is_touched(old, new, tmp_path):
    for number, source in enumerate((old, new)):
        run = Path(shutil.copytree(source, tmp_path / str(number)))
        for name in ("trajectory.json", "trajectory.copy.json"):
            if (run / name).exists():
                (run / name).write_bytes((run / name).read_bytes()[:-40])
        before = snapshot(run)
        with pytest.raises(StoreError, match=r"cannot repair .* put trajectory\.json back"):
            repair_trajectory(run)
        assert snapshot(run) == before


def test_what_cannot_be_read_now_is_no_damage(new, tmp_path, monkeypatch):
    run = copy_of(new, tmp_path)
    before = snapshot(run)

    def refuse(self):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(StoreError, match="Too many open files"):
            repair_trajectory(run)
    assert snapshot(run) == before


# --------------------------------------------------------------------------------------------------
# The first format


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["lost", "cut", "flip"])
def test_of_a_damaged_run_of_the_first_format_every_whole_row_is_kept(
    walk, old, tmp_path, name, how
):
    raw = (old / name).read_bytes()
    moments = random.Random(f"{name} {how} {walk.every}")
    places = [0] if how == "lost" else moments.sample(range(len(raw)), min(len(raw), 25))
    for place in places:
        run = copy_of(old, tmp_path)
        bad = b"" if how == "lost" else damaged(raw, how, place, moments.randrange(8))
        (run / name).write_bytes(bad)
        if how == "lost":
            (run / name).unlink()
        judge = Judge(walk, run)
        judge.read()
        if name == "trajectory.json" and how != "flip":
            before = snapshot(run)
            if bad.rstrip() == raw.rstrip():
                assert repair_trajectory(run) == []
            else:
                with pytest.raises(StoreError):
                    repair_trajectory(run)
            assert snapshot(run) == before
        else:
            size = len(walk.rows[0].tobytes())
            expected = whole_rows(walk, bad, size) if name == "states.bin" else walk.steps
            judge.repair(expected)
            if (expected and name == "records.bin") or (name == "losses.bin" and how == "flip"):
                assert Trajectory(run).all_losses.tolist() == walk.losses
        shutil.rmtree(run)


def test_losses_that_nothing_vouches_for_are_nan_and_said(walk, old, tmp_path):
    run = copy_of(old, tmp_path)
    (run / "losses.bin").write_bytes((run / "losses.bin").read_bytes()[:-8])
    lines = Judge(walk, run).repair(walk.steps)
    assert any("nothing vouches for" in line and "NaN" in line for line in lines)
    losses = Trajectory(run).all_losses
    assert np.isnan(losses[-1])
    known = ~np.isnan(losses)
    assert known.any()
    np.testing.assert_array_equal(losses[known], np.array(walk.losses)[known])


def test_a_damaged_line_of_the_index_costs_nothing_but_a_bit(walk, old, tmp_path):
    """The case that once cut a run to nothing: one flipped bit in the first line."""
    run = copy_of(old, tmp_path)
    raw = (run / "index.jsonl").read_bytes()
    (run / "index.jsonl").write_bytes(damaged(raw, "flip", 3, 2))
    lines = Judge(walk, run).repair(walk.steps)
    assert any("one bit of line 1 of index.jsonl was wrong" in line for line in lines)
    assert Trajectory(run).all_losses.tolist() == walk.losses
    assert Trajectory(run).closed
    assert read_header(run).version == 2


def test_several_damaged_lines_leave_the_rows(walk, old, tmp_path):
    run = copy_of(old, tmp_path)
    (run / "index.jsonl").write_bytes(b"[1, 2]\n" * 3)
    lines = Judge(walk, run).repair(walk.steps)
    assert any("line 1 of index.jsonl is damaged" in line for line in lines)
    assert np.isnan(Trajectory(run).all_losses).all()


def test_rows_that_come_back_are_states_again(tmp_path):
    run = tmp_path / "run"
    record(run, 9)
    whole = (run / "states.bin").read_bytes()
    before = Trajectory(run)[:]
    (run / "states.bin").write_bytes(whole[:100])
    assert any("9 states are lost" in line for line in repair_trajectory(run))
    assert len(Trajectory(run)) == 1
    (run / "states.bin").write_bytes(whole)  # from a backup
    lines = repair_trajectory(run)
    assert any("9 states that were lost are whole again" in line for line in lines)
    path = Trajectory(run)
    assert path.holes == ()
    np.testing.assert_array_equal(path[:], before)


def shifted(directory, until, **options):
    """Another run of the same network, with other states and losses."""
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2, bias=True)
    )
    with torch.no_grad():
        model[0].weight.fill_(7.0)
    record(directory, until, model, **options)


@pytest.mark.parametrize("until", [5, 9, 14])
@pytest.mark.parametrize("name", ["records.bin", "records.copy.bin"])
def test_records_of_another_run_are_never_believed(tmp_path, name, until):
    run = tmp_path / "run"
    record(run, 9)
    before = Trajectory(run)
    shifted(tmp_path / "other", until)
    shutil.copy(tmp_path / "other" / name, run / name)
    with pytest.raises(DamagedError, match="say different things"):
        Trajectory(run)
    assert any(f"{name} is of another run" in line for line in repair_trajectory(run))
    path = Trajectory(run)
    assert path.digest == before.digest
    np.testing.assert_array_equal(path[:], truth(9))
    np.testing.assert_array_equal(path.all_losses, before.all_losses)
    assert path.closed


@pytest.mark.parametrize("name", ["trajectory.json", "trajectory.copy.json"])
def test_a_header_of_another_network_is_never_believed(tmp_path, name):
    run = tmp_path / "run"
    record(run, 9)
    before = Trajectory(run).digest
    record(tmp_path / "other", 0, torch.nn.Linear(4, 4))
    shutil.copy(tmp_path / "other" / name, run / name)
    with pytest.raises(DamagedError, match="lay rows out differently"):
        Trajectory(run)
    assert any(f"{name} was of another run" in line for line in repair_trajectory(run))
    assert Trajectory(run).digest == before


def test_where_the_rows_do_not_say_whose_records_they_are_nothing_is_done(tmp_path):
    run = tmp_path / "run"
    record(run, 4)
    shifted(tmp_path / "other", 4)
    shutil.copy(tmp_path / "other" / "records.bin", run / "records.bin")
    (run / "states.bin").unlink()
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(StoreError, match="which is this run's"):
        repair_trajectory(run)
    assert before == {file.name: file.read_bytes() for file in run.iterdir()}


# --------------------------------------------------------------------------------------------------
# What is lost is told wherever it lies


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize(
    ("lost", "notes", "holes"),
    [
        ([0], ["the first state is lost"], ()),
        ([0, 1, 2], ["the first 3 states are lost"], ()),
        ([4, 5], ["the last 2 states are lost"], ()),
        (
            [0, 2, 5],
            [
                "states were lost between steps {1} and {3}",
                "the first state is lost",
                "the last state is lost",
            ],
            (0,),
        ),
    ],
)
def test_states_that_are_lost_at_an_end_are_told_of(
    tmp_path, monkeypatch, every, lost, notes, holes
):
    # A newest state that was made durable between two rows is found again where the rows are lost.
    monkeypatch.setattr(losspath.recording.recorder, "_COMMIT_SECONDS", 60.0)
    run = tmp_path / "run"
    record(run, 5 * every, every=every)
    size = (run / "states.bin").stat().st_size // 6
    raw = bytearray((run / "states.bin").read_bytes())
    for row in lost:
        raw[row * size] ^= 1
    (run / "states.bin").write_bytes(raw)
    lines = repair_trajectory(run)
    path = Trajectory(run)
    steps = [f"{number * every}" for number in range(6)]
    assert path.notes == [note.format(*steps) for note in notes]
    assert path.holes == holes
    kept = next(line for line in lines if "are kept" in line)
    told = [note.replace(" states", "").replace(" state", "") for note in notes]
    assert all(note in kept for note in told if note.startswith("the"))
    assert Trajectory(run).window(1).notes == path.notes


def test_a_newest_state_that_is_lost_is_told_of(tmp_path):
    run = tmp_path / "run"
    record(run, 5, every=3)
    (run / "newest.bin").unlink()
    repair_trajectory(run)
    path = Trajectory(run)
    assert path.steps.tolist() == [0, 3]
    assert path.notes == ["the last state is lost"]


@pytest.mark.parametrize("lost", ["newest.bin", "sides.bin"])
def test_what_tells_a_state_again_after_its_record_is_looked_at_too(tmp_path, monkeypatch, lost):
    # Rows in pieces: the last state is kept at the end, after its record.
    monkeypatch.setattr(losspath.recording.recorder, "_BUFFER_BYTES", 32)
    run = tmp_path / "run"
    record(run, 5, every=3)
    kinds = np.frombuffer((run / "records.bin").read_bytes(), slots.SLOT)["kind"]
    after = kinds[np.flatnonzero(kinds == slots.RECORD)[-1] :].tolist()
    assert slots.NEWEST in after
    assert slots.SIDE in after
    assert Trajectory(run).steps.tolist() == [0, 3, 5]
    (run / lost).unlink()
    assert repair_trajectory(run)
    assert repair_trajectory(run) == []
    path = Trajectory(run)
    if lost == "newest.bin":
        assert path.steps.tolist() == [0, 3]
        assert path.notes == ["the last state is lost"]
    else:
        assert path.steps.tolist() == [0, 3, 5]
        assert path.notes == ["buffers or frozen parameters of 3 states are lost"]
    model = network()
    path.load_into(model, -1)


def test_records_that_are_lost_at_the_ends_are_told_of(tmp_path):
    run = tmp_path / "run"
    record(run, 5)
    table = np.frombuffer((run / "records.bin").read_bytes(), slots.SLOT)
    places = np.flatnonzero(table["kind"] == slots.RECORD)
    for name in ("records.bin", "records.copy.bin"):
        raw = bytearray((run / name).read_bytes())
        for place in places[[0, -1]].tolist():
            raw[place * 64 + 20] ^= 2
        (run / name).write_bytes(raw)
    repair_trajectory(run)
    path = Trajectory(run)
    assert path.steps.tolist() == [1, 2, 3, 4]
    assert path.notes == ["the first state is lost", "the last state is lost"]


def without_side_tensors(run, model):
    """A repaired run of a model that lost all its side tensors, and the path that it was."""
    with Recorder(run, model) as recorder:
        for number in range(3):
            with torch.no_grad():
                for tensor in [p for p in model.parameters() if p.requires_grad]:
                    tensor.add_(1.0)
            for buffer in model.buffers():
                buffer += 1
            recorder.record(float(number))
    raw = (run / "sides.bin").read_bytes()
    (run / "sides.bin").unlink()
    assert any("of 4 states are lost" in line for line in repair_trajectory(run))
    return Trajectory(run), raw


def test_lost_buffers_are_told_of_and_what_to_do(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    path, raw = without_side_tensors(tmp_path / "run", model)
    assert path.notes == ["buffers or frozen parameters of 4 states are lost"]
    path.load_into(model, 1)  # its parameters are there
    for use in (lambda: path.sides(1), lambda: path.load_into(model, 1, buffers=True)):
        with pytest.raises(DamagedError, match=r'put the file back.*buffers="model"'):
            use()
    # As the message says:
    (tmp_path / "run" / "sides.bin").write_bytes(raw)
    for name in ("records.bin", "records.copy.bin"):
        (tmp_path / "run" / "aside-1" / name).replace(tmp_path / "run" / name)
    back = Trajectory(tmp_path / "run")
    assert back.notes == []
    assert int(back.sides(2)["1.num_batches_tracked"]) == 2


def test_lost_frozen_parameters_are_no_other_network(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    model[0].requires_grad_(False)
    path, _ = without_side_tensors(tmp_path / "run", model)
    assert path.notes == ["buffers or frozen parameters of 4 states are lost"]
    before = [tensor.clone() for tensor in model.parameters()]
    with pytest.raises(DamagedError, match=r"such as 0\.weight, were in sides\.bin and are lost"):
        path.load_into(model, 1)
    for tensor, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(tensor, value)


def test_what_is_left_of_side_tensors_is_loaded(tmp_path):
    # Those of the last state alone are lost.
    run = tmp_path / "run"
    record(run, 4)
    raw = bytearray((run / "sides.bin").read_bytes())
    raw[-9] ^= 1
    (run / "sides.bin").write_bytes(raw)
    repair_trajectory(run)
    path = Trajectory(run)
    assert path.notes == ["buffers or frozen parameters of 1 states are lost"]
    model = network()
    path.load_into(model, 2, buffers=True)
    assert torch.equal(model[1].running_var, path.sides(2)["1.running_var"])
    path.load_into(model, -1)
