import errno
import math
import os
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from losspath.errors import BusyError, DamagedError, StoreError
from losspath.evaluation.execution.journal import Journal, is_readable
from losspath.evaluation.objective import Evaluation

KEY = "5e1f"
POINTS = {
    0: Evaluation(0.1 + 0.2, 0.75),
    3: Evaluation(1e-300, None),
    1: Evaluation(float("nan"), 1.0),
    7: Evaluation(float("inf"), 0.0),
    8: Evaluation(float("-inf"), float("nan")),
    123456: Evaluation(2.0, 1 / 3),
}


def same(one, other):
    def plain(value):
        return "nan" if value is not None and math.isnan(value) else value

    return plain(one.loss) == plain(other.loss) and plain(one.accuracy) == plain(other.accuracy)


def assert_subset(done):
    for number, evaluation in done.items():
        assert same(evaluation, POINTS[number])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a journal with all points."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    with Journal(path, KEY) as journal:
        for number, evaluation in POINTS.items():
            journal.add(number, evaluation)
    return path.read_bytes()


def test_evaluations_are_there_again(tmp_path, written):
    path = tmp_path / "journal"
    path.write_bytes(written)
    with Journal(path, KEY) as journal:
        assert list(journal.done) == list(POINTS)
        assert_subset(journal.done)
    assert path.read_bytes() == written
    assert is_readable(path)


def test_an_evaluation_is_on_disk_before_the_journal_is_closed(tmp_path):
    # As after a kill: nothing of the journal's memory is there any more.
    path = tmp_path / "journal"
    with Journal(path, KEY) as journal:
        for count, (number, evaluation) in enumerate(POINTS.items(), 1):
            journal.add(number, evaluation)
            copy = tmp_path / f"copy{count}"
            copy.write_bytes(path.read_bytes())
            with Journal(copy, KEY) as again:
                assert len(again.done) == count


def test_missing_directories_are_made(tmp_path):
    with Journal(tmp_path / "a" / "b" / "journal", KEY) as journal:
        journal.add(0, POINTS[0])
    assert is_readable(tmp_path / "a" / "b" / "journal")


def test_a_line_that_was_cut_off_is_dropped_wherever_the_cut(tmp_path, written):
    path = tmp_path / "journal"
    for length in range(len(written) + 1):
        path.write_bytes(written[:length])
        with Journal(path, KEY) as journal:
            assert_subset(journal.done)
            whole = max(written[:length].count(b"\n") - 1, 0)
            assert len(journal.done) == whole
            # What is added next is not glued to what was cut off.
            journal.add(99, Evaluation(4.0, None))
        with Journal(path, KEY) as journal:
            assert len(journal.done) == whole + 1
            assert journal.done[99].loss == 4.0


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_changes_no_value(tmp_path_factory, written, data):
    bit = data.draw(st.integers(0, 8 * len(written) - 1))
    broken = bytearray(written)
    broken[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("flip") / "journal"
    path.write_bytes(broken)
    try:
        with Journal(path, KEY) as journal:
            assert_subset(journal.done)
            # At most the last line can go: its end was flipped, so it looks cut off.
            assert len(journal.done) >= len(POINTS) - 1
    except DamagedError:
        pass


@settings(deadline=None, max_examples=100)
@given(
    first=st.integers(0, 500),
    removed=st.integers(0, 60),
    inserted=st.binary(max_size=12),
)
@example(first=0, removed=0, inserted=b"\n")
def test_any_other_damage_is_refused_or_changes_no_value(
    tmp_path_factory, written, first, removed, inserted
):
    broken = written[:first] + inserted + written[first + removed :]
    path = tmp_path_factory.mktemp("damage") / "journal"
    path.write_bytes(broken)
    try:
        with Journal(path, KEY) as journal:
            assert_subset(journal.done)
    except StoreError:
        pass


@pytest.mark.parametrize(
    "line", [b"garbage", b"[1, 2.0, null]", b"{}", b"[]", b"null", b'["0123456789abcdef"]', b"\xff"]
)
def test_a_line_that_is_something_else_is_refused(tmp_path, written, line):
    path = tmp_path / "journal"
    for place in (0, written.index(b"\n") + 1, len(written)):
        path.write_bytes(written[:place] + line + b"\n" + written[place:])
        assert not is_readable(path)
        with pytest.raises(DamagedError, match="remove it to compute its points again"):
            Journal(path, KEY)


def test_what_is_refused_stays_as_it_is_and_unlocked(tmp_path, written):
    path = tmp_path / "journal"
    broken = written.replace(b"0.75", b"0.25")
    path.write_bytes(broken)
    for _ in range(2):
        with pytest.raises(DamagedError):
            Journal(path, KEY)
    assert path.read_bytes() == broken
    path.unlink()
    with Journal(path, KEY) as journal:
        assert journal.done == {}


def test_the_journal_of_another_computation_is_refused(tmp_path, written):
    path = tmp_path / "journal"
    path.write_bytes(written)
    with pytest.raises(StoreError, match="another computation"):
        Journal(path, KEY + "0")
    assert path.read_bytes() == written
    with Journal(path, KEY) as journal:
        assert len(journal.done) == len(POINTS)


def test_a_second_journal_on_the_same_file_has_to_wait(tmp_path):
    path = tmp_path / "journal"
    code = (
        "import sys; from pathlib import Path\n"
        "from losspath.evaluation.execution.journal import Journal\n"
        "from losspath.errors import BusyError\n"
        "try: Journal(Path(sys.argv[1]), '5e1f')\n"
        "except BusyError: sys.exit(7)\n"
    )
    with Journal(path, KEY) as journal:
        journal.add(0, POINTS[0])
        with pytest.raises(BusyError, match="another process is writing"):
            Journal(path, KEY)
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 7
        journal.add(3, POINTS[3])
    with Journal(path, KEY) as journal:
        assert list(journal.done) == [0, 3]


def test_the_lock_is_released_when_the_computation_fails(tmp_path):
    def compute():
        with Journal(tmp_path / "journal", KEY) as journal:
            journal.add(0, POINTS[0])
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            compute()


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot"):
        Journal(tmp_path / "file" / "journal", KEY)
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        Journal(tmp_path / "directory", KEY)
    with pytest.raises(StoreError, match="cannot read"):
        is_readable(tmp_path / "missing")


def test_writes_that_take_half_are_gone_on_with(tmp_path, written, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[: len(data) // 2 or 1]))
    with Journal(tmp_path / "journal", KEY) as journal:
        for number, evaluation in POINTS.items():
            journal.add(number, evaluation)
    assert (tmp_path / "journal").read_bytes() == written


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("written_bytes", [0, 1, 30])
def test_a_line_that_could_not_be_written_spoils_no_other(
    tmp_path, monkeypatch, failure, written_bytes
):
    path = tmp_path / "journal"
    write = os.write

    def fail(fd, data):
        write(fd, bytes(data)[:written_bytes])
        raise failure

    with Journal(path, KEY) as journal:
        journal.add(0, POINTS[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            expected = StoreError if isinstance(failure, OSError) else KeyboardInterrupt
            with pytest.raises(expected):
                journal.add(7, POINTS[7])
        assert 7 not in journal.done
        journal.add(3, POINTS[3])
    with Journal(path, KEY) as journal:
        assert list(journal.done) == [0, 3]
        assert_subset(journal.done)


def test_points_are_synced_by_time(tmp_path, monkeypatch):
    synced, clock = [], [100.0]
    monkeypatch.setattr("losspath.evaluation.execution.journal.sync_file", synced.append)
    monkeypatch.setattr("losspath.evaluation.execution.journal.time.monotonic", lambda: clock[0])
    with Journal(tmp_path / "journal", KEY) as journal:
        for number in range(9):
            clock[0] += 1.0
            journal.add(number, POINTS[0])
    assert len(synced) == 3
