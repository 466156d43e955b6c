"""Small files: whole or absent, and never believed when a bit is wrong."""

import errno
import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from losspath.errors import (
    ArgumentError,
    BusyError,
    DamagedError,
    LosspathError,
    StoreError,
    wrap_os_errors,
)
from losspath.files import (
    acquire_lock,
    canonical_json,
    digest_of,
    load_archive,
    move_aside,
    new_aside,
    only_writer,
    read_document,
    save_archive,
    sync_directory,
    sync_file,
    write_all,
    write_atomically,
    write_document,
)

# --------------------------------------------------------------------------------------------------
# Digests

DIFFERENT = [
    (np.zeros(2, "f4"), np.zeros(2, "f8")),
    (np.zeros(2, "f4"), np.zeros(2, "i4")),
    (np.zeros(2, "<i4"), np.zeros(2, ">i4")),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.zeros((2, 3)), np.zeros(6)),
    (np.zeros(1), np.zeros(())),
    (np.zeros((0, 2)), np.zeros((0, 3))),
    (np.arange(3.0), np.arange(3.0)[::-1]),
    (np.array([0.0]), np.array([-0.0])),
    (np.array([math.nan]), np.array([-math.nan])),
    (np.array(["a"]), np.array(["b"])),
    ([1, 2], [2, 1]),
    (1, "1"),
    (1, True),
    (1, 1.0),
    (None, "null"),
    ([], {}),
    ([1], [[1]]),
    (0.1, 0.1 + 1e-17 * 2),
    (math.inf, -math.inf),
    (math.nan, None),
    (math.nan, math.inf),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_digests_tell_apart(one, other):
    assert digest_of(one) != digest_of(other)
    assert digest_of(one, other) != digest_of(other, one)
    assert digest_of(one) == digest_of(one)


def test_digests_tell_where_a_part_ends():
    assert digest_of("a", "b") != digest_of("ab")
    assert digest_of([1, 2]) != digest_of(1, 2)
    one = np.arange(4.0)
    assert digest_of(one) != digest_of(one[:2], one[2:])


def test_digests_are_of_content_not_of_memory():
    array = np.arange(12.0).reshape(3, 4)
    assert digest_of(array.T) == digest_of(array.T.copy())
    assert digest_of(array[:, ::2]) == digest_of(array[:, ::2].copy())
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of((1, 2)) == digest_of([1, 2])
    assert digest_of(np.float32(0.5), np.int64(3)) == digest_of(0.5, 3)


def test_a_digest_never_changes():
    # Results already on disk would all be computed again if it did.
    assert digest_of({"a": [1, 0.5, None, "ü"]}) == DIGESTS[0]
    assert digest_of(np.arange(3, dtype="<f4")) == DIGESTS[1]


DIGESTS = ("8c5732adf8a4adb4c781dea6ecb53064", "7eb74a457226440e86c140283fab2ffc")


def test_numbers_that_json_lacks_are_spelled_by_name():
    values = {"b": [math.nan, -math.inf], "a": np.float64(math.inf), 1: (True, None)}
    text = canonical_json(values)
    assert text == '{"1":[true,null],"a":"inf","b":["nan","-inf"]}'
    json.loads(text, parse_constant=pytest.fail)


# --------------------------------------------------------------------------------------------------
# Whole or absent


def listing(directory):
    return sorted(file.name for file in directory.iterdir())


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), ValueError("own"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, error, existing):
    path = tmp_path / "file"
    if existing:
        path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the new")
        file.flush()
        raise error

    expected = StoreError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_atomically(path, write)
    assert listing(tmp_path) == (["file"] if existing else [])
    if existing:
        assert path.read_bytes() == b"old"


def test_a_file_is_moved_into_place_when_it_is_whole_and_synced(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(path.exists()), fsync(fd)))
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert listing(path.parent) == ["file"]
    assert synced == [False, True]  # the file before it is moved, the directory after


def test_what_the_system_refuses_is_an_error_of_the_package(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write") as error:
        write_atomically(tmp_path / "file" / "below", lambda file: None)
    assert isinstance(error.value.__cause__, OSError)
    with pytest.raises(StoreError, match="cannot read"):
        read_document(tmp_path / "none")
    with pytest.raises(StoreError, match="cannot read"):
        read_document(tmp_path)


def test_wrapping_passes_the_packages_own_errors_and_all_others():
    for error in (DamagedError("own"), KeyError("other")):
        with pytest.raises(type(error)) as caught, wrap_os_errors("do"):
            raise error
        assert caught.value is error
    with pytest.raises(LosspathError, match="cannot do: OSError"), wrap_os_errors("do"):
        raise OSError


# --------------------------------------------------------------------------------------------------
# What systems do differently


@pytest.fixture
def descriptor(tmp_path):
    opened = os.open(tmp_path / "bytes", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def halved(write):
    """A system call that takes half of what it is given."""

    def short(fd, data, *offset):
        return write(fd, bytes(data)[: (len(data) + 1) // 2], *offset)

    return short


DATA = bytes(range(256)) * 3 + b"end"


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("offset", [None, 0, 100])
def test_all_bytes_are_written_however_few_at_once(
    tmp_path, monkeypatch, descriptor, short, missing, offset
):
    if missing:
        monkeypatch.delattr(os, "pwrite")
    if short:
        monkeypatch.setattr(os, "write", halved(os.write))
        if not missing:
            monkeypatch.setattr(os, "pwrite", halved(os.pwrite))
    os.write(descriptor, b"")
    write_all(descriptor, DATA, offset)
    assert (tmp_path / "bytes").read_bytes() == bytes(offset or 0) + DATA
    if offset is None:  # goes on where it ended
        write_all(descriptor, memoryview(DATA))
        assert (tmp_path / "bytes").read_bytes() == DATA + DATA


def test_any_bytes_can_be_written(tmp_path, descriptor):
    write_all(descriptor, np.arange(3.0), 0)
    write_all(descriptor, np.empty((0, 3)))
    write_all(descriptor, b"")
    assert (tmp_path / "bytes").read_bytes() == np.arange(3.0).tobytes()


@pytest.mark.parametrize(("name", "offset"), [("write", None), ("pwrite", 0)])
def test_a_system_that_takes_no_more_is_a_full_disk(monkeypatch, descriptor, name, offset):
    monkeypatch.setattr(os, name, lambda *arguments: 0)
    with pytest.raises(OSError, match="No space left") as error:
        write_all(descriptor, b"data", offset)
    assert error.value.errno == errno.ENOSPC


def test_a_file_is_synced_with_or_without_fdatasync(monkeypatch, descriptor):
    calls = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: calls.append(("fdatasync", fd)))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(("fsync", fd)))
    sync_file(descriptor)
    monkeypatch.delattr(os, "fdatasync")
    sync_file(descriptor)
    assert calls == [("fdatasync", descriptor), ("fsync", descriptor)]


@pytest.mark.parametrize("call", ["open", "fsync"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP])
def test_directories_that_cannot_be_synced_are_left_alone(tmp_path, monkeypatch, call, code):
    real, refused = getattr(os, call), []

    def refuse(what, *arguments, **options):
        if Path(what if call == "open" else f"/proc/self/fd/{what}").is_dir():
            refused.append(what)
            raise OSError(code, os.strerror(code))
        return real(what, *arguments, **options)

    monkeypatch.setattr(os, call, refuse)
    sync_directory(tmp_path)
    write_document(tmp_path / "a.json", {"a": 1})
    assert read_document(tmp_path / "a.json") == {"a": 1}
    assert len(refused) == 2


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_directory_that_fails_to_sync_is_an_error(tmp_path, monkeypatch, code):
    def fail(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_directory(tmp_path)


def test_what_makes_way_is_renamed_and_overwrites_nothing(tmp_path):
    (tmp_path / "results").mkdir()
    for content in ("one", "two"):
        (tmp_path / "a").write_text(content)
        moved = move_aside(tmp_path / "a", tmp_path)
        assert moved.read_text() == content
    (tmp_path / "results" / "b").write_text("three")
    assert move_aside(tmp_path / "results" / "b", tmp_path) == tmp_path / "aside-2" / "b"
    assert (tmp_path / "aside-1" / "a").read_text() == "one"
    assert (tmp_path / "aside-2" / "a").read_text() == "two"
    into = new_aside(tmp_path)
    assert into == tmp_path / "aside-3"
    (tmp_path / "c").write_text("four")
    assert move_aside(tmp_path / "c", tmp_path, into) == into / "c"
    (tmp_path / "c").write_text("five")
    with pytest.raises(StoreError, match=r"cannot move .*aside-3/c: File exists"):
        move_aside(tmp_path / "c", tmp_path, into)
    assert ((into / "c").read_text(), (tmp_path / "c").read_text()) == ("four", "five")


def test_what_cannot_be_renamed_stays(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("content")

    def refuse(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match=r"cannot move .*a aside.*cross-device"):
        move_aside(tmp_path / "a", tmp_path)
    assert (tmp_path / "a").read_text() == "content"


# --------------------------------------------------------------------------------------------------
# Documents

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    scalars.filter(lambda x: x not in (math.inf, -math.inf)) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(text.filter(lambda key: key != "digest"), values, max_size=4)


@settings(deadline=None, max_examples=60)
@given(documents)
def test_a_document_is_read_as_it_was_written(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("documents") / "a.json"
    write_document(path, content)
    assert read_document(path) == content
    assert "digest" in json.loads(path.read_text())


@settings(deadline=None, max_examples=150)
@given(documents, st.data())
def test_a_flipped_or_cut_document_is_refused_or_says_the_same(tmp_path_factory, content, data):
    path = tmp_path_factory.mktemp("documents") / "a.json"
    write_document(path, content)
    path.write_bytes(damaged(path.read_bytes(), data))
    try:
        read = read_document(path)
    except DamagedError:
        return
    assert read == content  # such as 1E-05 for 1e-05, or a missing end of line


def damaged(raw, data):
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        return raw[:place]
    return raw[:place] + bytes([raw[place] ^ 1 << data.draw(st.integers(0, 7))]) + raw[place + 1 :]


@pytest.mark.parametrize("place", range(0, 64))
def test_every_bit_of_a_document_counts(tmp_path, place):
    path = tmp_path / "a.json"
    write_document(path, {"every": 1, "name": "run"})
    raw = path.read_bytes()
    assert len(raw) > 64
    for bit in range(8):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
        with pytest.raises(DamagedError):
            read_document(path)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"digest": null}']
)
def test_what_is_no_document_is_damage(tmp_path, raw):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(DamagedError):
        read_document(tmp_path / "a.json")


# --------------------------------------------------------------------------------------------------
# Archives

ARRAYS = {
    "loss": np.arange(6.0).reshape(2, 3),
    "empty": np.zeros((0, 3), np.float32),
    "names": np.array(["a", "bcd"]),
    "one": np.array(3),
}
PROVENANCE = {"path_digest": "abc", "options": {"width": 0.5, "nan": "nan"}}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "a.npz"
    save_archive(path, "surface", 3, ARRAYS, PROVENANCE)
    return path


def assert_is_archive(loaded):
    arrays, provenance = loaded
    assert provenance == PROVENANCE
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_an_archive_is_read_as_it_was_written(archive):
    assert_is_archive(load_archive(archive, "surface", 3))


def test_an_archive_opens_with_numpy_alone(archive):
    with np.load(archive, allow_pickle=False) as members:
        np.testing.assert_array_equal(members["loss"], ARRAYS["loss"])
        assert json.loads(str(members["provenance"])) == PROVENANCE
        assert (str(members["kind"]), int(members["format_version"])) == ("surface", 3)


array_dtypes = st.sampled_from(["f4", "f8", "i8", "?", "U3", "c8"])


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from("abc"), npst.arrays(array_dtypes, npst.array_shapes(min_dims=0))
    )
)
def test_any_arrays_come_back(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("archive") / "a.npz"
    save_archive(path, "kind", 1, arrays, {})
    loaded, _ = load_archive(path, "kind", 1)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_flipped_or_cut_archive_is_refused_or_says_the_same(archive, data):
    path = archive.with_name("damaged.npz")
    path.write_bytes(damaged(archive.read_bytes(), data))
    try:
        loaded = load_archive(path, "surface", 3)
    except StoreError:
        return
    assert_is_archive(loaded)  # a zip has bytes that mean nothing here, such as the time of day


def test_every_byte_of_an_arrays_content_counts(archive, tmp_path):
    raw = archive.read_bytes()
    begin = raw.index(ARRAYS["loss"].tobytes())
    for place in range(begin, begin + ARRAYS["loss"].nbytes):
        path = tmp_path / "a.npz"
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(DamagedError):
            load_archive(path, "surface", 3)


def test_an_array_exchanged_by_another_program_is_noticed(archive, tmp_path):
    with np.load(archive) as members:
        changed = {**members, "loss": members["loss"] + 1}
    np.savez(tmp_path / "a.npz", **changed)
    with pytest.raises(DamagedError, match="does not match its digest"):
        load_archive(tmp_path / "a.npz", "surface", 3)


@pytest.mark.parametrize(("kind", "version"), [("plane", 3), ("surface", 2), ("surface", 4)])
def test_another_kind_or_version_is_refused_by_name(archive, kind, version):
    with pytest.raises(StoreError, match=f"{kind}") as error:
        load_archive(archive, kind, version)
    assert not isinstance(error.value, DamagedError)


def test_a_missing_archive_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(StoreError, match="there is no file"):
        load_archive(tmp_path / "none.npz", "surface", 3)


def test_pickled_objects_are_never_loaded(tmp_path, archive):
    with np.load(archive) as members:
        everything = {**members}
    everything["loss"] = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "a.npz", **everything)
    np.save(tmp_path / "b.npy", np.array([Bomb()], dtype=object))
    for name in ("a.npz", "b.npy"):
        with pytest.raises(DamagedError):
            load_archive(tmp_path / name, "surface", 3)
    assert not Bomb.loaded


class Bomb:
    """Says when it is unpickled."""

    loaded = False

    def __reduce__(self):
        return setattr, (Bomb, "loaded", True)


def test_object_arrays_are_not_saved(tmp_path):
    with pytest.raises((TypeError, ValueError)):
        save_archive(tmp_path / "a.npz", "kind", 1, {"x": np.array([{}], dtype=object)}, {})
    assert not listing(tmp_path)


@pytest.mark.parametrize("content", ["text", "npy", "zip", "npz", "empty"])
def test_what_is_no_archive_is_an_error_of_the_package(tmp_path, content):
    path = tmp_path / "a.npz"
    if content == "npy":
        np.save(tmp_path / "a.npy", np.zeros(3))
        (tmp_path / "a.npy").rename(path)
    elif content == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "text")
    elif content == "npz":
        np.savez(path, loss=np.zeros(3))
    else:
        path.write_text("" if content == "empty" else "text")
    with pytest.raises(StoreError, match=str(path)):
        load_archive(path, "surface", 3)


# --------------------------------------------------------------------------------------------------
# Locks


def test_one_writer_at_a_time(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with only_writer(lock, "to the run"), pytest.raises(BusyError, match="writing to the run"):
        acquire_lock(lock, "to the run")
    with pytest.raises(ZeroDivisionError), only_writer(lock, "to the run"):
        raise ZeroDivisionError
    acquire_lock(lock, "to the run").release()


def test_a_lock_holds_against_other_processes_and_dies_with_them(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from losspath.files import acquire_lock;"
        "lock = acquire_lock(Path(sys.argv[1]), 'x'); print('held', flush=True); time.sleep(600)"
    )
    path = tmp_path / ".lock"
    arguments = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(BusyError):
                acquire_lock(Path(path), "x")
        finally:
            process.kill()
    acquire_lock(path, "x").release()


def test_names_that_are_one_in_json_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="differ as text"):
        write_document(tmp_path / "a.json", {"inner": {1: "a", "1": "b"}})
    assert not list(tmp_path.iterdir())
