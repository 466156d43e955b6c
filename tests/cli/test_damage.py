"""Every file of a run cut short or with a bit flipped: refused or repaired, never believed."""

import ast
import builtins
import errno
import importlib
import pkgutil
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import losspath
from losspath.cli import main
from losspath.errors import DamagedError, StoreError
from losspath.evaluation.execution.journal import Journal
from losspath.evaluation.objective import Evaluation
from losspath.files import acquire_lock, save_archive, write_document
from losspath.results import KINDS, damage_of

TRAIN = ("train", "--network", "tiny-cnn", "--lr", "0.05", "--epochs", "3")
SURFACE = ("--resolution", "3", "--samples", "50")


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


@pytest.fixture(scope="module")
def whole(tmp_path_factory, trained_run):
    """A run with every kind of file, and the surface and run that it should come to."""
    directory = tmp_path_factory.mktemp("whole")
    run = directory / "run"
    shutil.copytree(trained_run, run)
    for arguments in (("surface", run, *SURFACE), ("interpolate", run, "--points", "3")):
        assert call(*arguments) == 0
    assert call("steps", run) == 0
    grown = directory / "grown"
    shutil.copytree(run, grown)
    assert call(*TRAIN, "--out", grown) == 0
    return run, grown


def damage(path, moments):
    raw = bytearray(path.read_bytes())
    if moments.random() < 0.4 or not raw:
        del raw[moments.randrange(len(raw) + 1) :]
    else:
        raw[moments.randrange(len(raw))] ^= 1 << moments.randrange(8)
    path.write_bytes(raw)


def files(run):
    names = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    return sorted(name for name in names if "figures" not in name.parts)


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_run_is_refused_or_repaired_and_then_the_same(whole, tmp_path, capsys, seed):
    run, grown = whole
    moments = random.Random(seed)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    chosen = files(run)[seed % len(files(run))]
    damage(copy / chosen, moments)
    original = losspath.Trajectory(run)
    try:
        path = losspath.Trajectory(copy)
        states = path[:]
    except losspath.LosspathError:
        pass
    else:
        np.testing.assert_array_equal(states, original[:][: len(states)])
        assert len(path) == len(original) or not path.closed
    assert call("repair", copy) == 0
    capsys.readouterr()
    assert call("repair", copy) == 0
    assert "nothing to repair" in capsys.readouterr().out
    if call(*TRAIN, "--out", copy) != 0:
        assert chosen.name == "states.bin"
        assert "first state" in capsys.readouterr().err
        return
    mended, right = losspath.Trajectory(copy), losspath.Trajectory(grown)
    if chosen.name == "states.bin":  # lost states stay lost, and nothing else is
        places = np.searchsorted(right.steps, mended.steps)
        np.testing.assert_array_equal(mended[:], right[:][places])
        assert mended.steps[-1] == right.steps[-1]
        assert call("surface", copy, *SURFACE) == 0
        return
    assert mended.digest == right.digest
    assert call("surface", copy, *SURFACE) == 0
    assert call("surface", grown, *SURFACE) == 0
    np.testing.assert_array_equal(surface_of(copy, grown).loss, surface_of(grown, grown).loss)


def surface_of(run, grown):
    """The surface of a run's whole path, among those of earlier lengths."""
    digest = losspath.Trajectory(grown).digest
    surfaces = map(losspath.Surface.load, sorted(run.glob("results/surface-*.npz")))
    return next(s for s in surfaces if s.provenance["path_digest"] == digest)


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("kind", ["surface", "plane", "states", "interpolation", "steps"])
def test_a_damaged_result_is_not_drawn(whole, tmp_path, capsys, kind):
    run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (file,) = copy.glob(f"results/{kind}-*.npz")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 16
    file.write_bytes(raw)
    command = {"interpolation": ("interpolate", copy, "--points", "3"), "steps": ("steps", copy)}
    if kind == "states":  # only read when a surface has to be computed
        next(copy.glob("results/surface-*.npz")).unlink()
    capsys.readouterr()
    assert call(*command.get(kind, ("surface", copy, *SURFACE))) == 1
    assert "damaged" in capsys.readouterr().err
    assert call("repair", copy) == 0
    assert file.name in capsys.readouterr().out
    assert call(*command.get(kind, ("surface", copy, *SURFACE))) == 0


# --------------------------------------------------------------------------------------------------
# Every kind of result


ARCHIVES = {name: pkgutil.resolve_name(kind.type).archive for name, kind in KINDS.items()}


def saved_kinds():
    """Every class of the source that saves an archive."""
    root = Path(losspath.__file__).parent
    for file in sorted(root.rglob("*.py")):
        module = ".".join(["losspath", *file.relative_to(root).with_suffix("").parts])
        for kind in ast.walk(ast.parse(file.read_text())):
            if isinstance(kind, ast.ClassDef) and any(
                isinstance(node, ast.Call) and getattr(node.func, "id", "") == "save_archive"
                for node in ast.walk(kind)
            ):
                yield f"{module}:{kind.name}"


def test_every_kind_of_archive_is_known():
    assert sorted(saved_kinds()) == sorted(kind.type for kind in KINDS.values())


@pytest.fixture
def small(tmp_path):
    """A recorded run with a file of every kind that belongs to results, and its files' bytes."""
    run = tmp_path / "run"
    model = torch.nn.Linear(2, 1)
    names = ("network", "data", "optimizer", "data_digest")
    metadata = {"training": dict.fromkeys(names, "made up")}
    with losspath.Recorder(run, model, metadata=metadata) as recorder:
        recorder.record(0.5)
    for prefix, (kind, version) in ARCHIVES.items():
        file = run / "results" / f"{prefix}-0123.npz"
        save_archive(file, kind, version, {"x": np.arange(9.0)}, {"key": "0123"})
    write_document(run / "history.json", {"history": []})
    with Journal(run / "results" / "surface-0123.points", "0123") as journal:
        for number in range(5):
            journal.add(number, Evaluation(number / 7, None))
    (run / "results" / "notes.txt").write_text("the user's own")
    (run / "results" / "own.npz").write_bytes(b"the user's own")
    return run


def snapshot(run):
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file()
    }


def repaired(run, capsys):
    capsys.readouterr()
    assert call("repair", run) == 0
    return capsys.readouterr().out.replace("\n", " ")


KNOWN = [f"results/{prefix}-0123.npz" for prefix in ARCHIVES]
KNOWN += ["history.json"]


def test_a_sound_run_is_left_byte_for_byte(small, capsys):
    before = snapshot(small)
    assert "nothing to repair" in repaired(small, capsys)
    assert snapshot(small) == before


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_of_any_kind_is_renamed_aside(small, capsys, name, damage):
    raw = bytearray((small / name).read_bytes())
    if damage == "flip":  # not in a byte of the zip that means nothing
        raw[raw.find(np.arange(9.0).tobytes()) + 20 if name.endswith("npz") else 20] ^= 4
    else:
        del raw[-9 if damage == "cut" else 0 :]
    (small / name).write_bytes(raw)
    before = snapshot(small)
    told = repaired(small, capsys)
    aside = f"aside-1/{Path(name).name}"
    assert f"moved the damaged {name} to {aside};" in told
    before[aside] = before.pop(name)
    assert snapshot(small) == before
    assert "nothing to repair" in repaired(small, capsys)


def test_what_makes_way_twice_is_kept_twice(small, capsys):
    file = small / KNOWN[0]
    for content in (b"one", b"two"):
        file.write_bytes(content)
        repaired(small, capsys)
    kept = {aside.parent.name: aside.read_bytes() for aside in small.glob("aside-*/*.npz")}
    assert kept == {"aside-1": b"one", "aside-2": b"two"}


def test_a_checkpoint_that_is_damaged_is_renamed_aside(run, capsys):
    checkpoint = min(run.glob("checkpoint-*.safetensors"))
    raw = bytearray(checkpoint.read_bytes())
    raw[-1] ^= 1
    checkpoint.write_bytes(raw)
    assert f"aside-1/{checkpoint.name}; training goes on from an earlier" in repaired(run, capsys)
    assert (run / "aside-1" / checkpoint.name).read_bytes() == raw
    assert not checkpoint.exists()


@pytest.mark.parametrize("prefix", ARCHIVES)
def test_a_result_of_another_version_is_left_and_said(small, capsys, prefix):
    kind, version = ARCHIVES[prefix]
    file = small / "results" / f"{prefix}-0123.npz"
    save_archive(file, kind, version + 1, {"y": np.arange(3.0)}, {})
    before = snapshot(small)
    told = repaired(small, capsys)
    assert f"left results/{file.name} alone" in told
    assert "another version" in told
    assert snapshot(small) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("name", [*KNOWN, "results/surface-0123.points"])
def test_what_cannot_be_read_now_is_left_and_said(small, capsys, monkeypatch, name, error):
    before = snapshot(small)
    refuse_to_open(monkeypatch, small / name, error)
    told = repaired(small, capsys)
    assert f"left {name} alone" in told
    assert error.strerror in told
    monkeypatch.undo()
    assert snapshot(small) == before


def refuse_to_open(monkeypatch, path, error):
    """However a file is opened to be read, the system refuses."""
    for module in (builtins, importlib.import_module("io")):
        real = module.open

        def refuse(file, *arguments, real=real, **options):
            if not isinstance(file, int) and Path(file) == path:
                raise error
            return real(file, *arguments, **options)

        monkeypatch.setattr(module, "open", refuse)


def test_too_little_memory_is_no_damage(small, monkeypatch):
    file = small / "results" / "surface-0123.npz"

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("numpy.lib.format.read_array", fail)
    for module in ("numpy.lib._npyio_impl", "numpy.lib.npyio"):
        try:
            monkeypatch.setattr(f"{module}.format.read_array", fail)
        except (ImportError, AttributeError):
            continue
    problem = damage_of(file)
    assert isinstance(problem, StoreError)
    assert not isinstance(problem, DamagedError)
    assert "not enough memory" in str(problem)


def test_a_wrong_length_that_asks_for_too_much_memory_is_damage(small):
    file = small / "results" / "surface-0123.npz"
    raw = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        assert archive.getinfo("x.npy").compress_type == zipfile.ZIP_STORED
    assert raw.count(b"(9,), }     ") == 1
    file.write_bytes(raw.replace(b"(9,), }     ", b"(9999999999,"[:8] + b"), }"))
    assert isinstance(damage_of(file), DamagedError)


def test_of_a_damaged_journal_the_points_before_the_damage_are_kept(small, capsys):
    file = small / "results" / "surface-0123.points"
    raw = file.read_bytes()
    lines = raw.splitlines(keepends=True)
    for number in range(len(lines)):
        damaged = b"".join(
            [*lines[:number], lines[number].replace(b",", b";"), *lines[number + 1 :]]
        )
        file.write_bytes(damaged)
        told = repaired(small, capsys)
        assert f"{max(number - 1, 0)} points before the damage are kept" in told
        moved = small / f"aside-{number + 1}" / file.name
        assert moved.read_bytes() == damaged
        with Journal(file, "0123") as journal:
            assert {n: e.loss for n, e in journal.done.items()} == {
                n: n / 7 for n in range(number - 1)
            }
        file.write_bytes(raw)


def test_a_journal_that_is_being_written_is_left(small, capsys):
    file = small / "results" / "surface-0123.points"
    file.write_bytes(file.read_bytes().replace(b",", b";"))
    before = file.read_bytes()
    lock = acquire_lock(file.with_name(file.name + ".lock"), str(file))
    try:
        assert f"left results/{file.name} alone: another process" in repaired(small, capsys)
    finally:
        lock.release()
    assert file.read_bytes() == before


def test_where_nothing_can_be_renamed_nothing_is_done(small, capsys, monkeypatch):
    (small / KNOWN[0]).write_bytes(b"damaged")
    before = snapshot(small)

    def refuse(self, target):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        assert call("repair", small) == 1
    assert "Read-only file system" in capsys.readouterr().err
    assert {k: v for k, v in snapshot(small).items() if "aside" not in k} == before
