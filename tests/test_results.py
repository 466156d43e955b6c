"""Results on disk, under keys of what they depend on."""

import numpy as np
import pytest

import losspath.results
from losspath import Dynamics, PrincipalPlane, StepSizes, Surface, fit_plane, step_sizes
from losspath.errors import ArgumentError, DamagedError, StoreError
from losspath.files import load_archive, save_archive
from losspath.results import ResultStore, damage_of, register

PATH = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results")


def key_of(path):
    return step_sizes(path).provenance["path_digest"]


def test_computed_once(store):
    calls = []

    def compute(checkpoint):
        calls.append(checkpoint)
        return step_sizes(PATH)

    for _ in range(3):
        found = store.get(StepSizes, key_of(PATH), compute)
        np.testing.assert_array_equal(found.sizes, [5.0, 1.0])
    assert calls == [store.checkpoint(StepSizes, key_of(PATH))]
    assert [file.name for file in store.directory.iterdir()] == [f"steps-{key_of(PATH)[:12]}.npz"]


def test_the_whole_key_counts(store):
    key = key_of(PATH)
    saved = store.save(step_sizes(PATH), key)
    other = key[:12] + "0" * (len(key) - 12)
    assert store.file(StepSizes, other) == saved
    assert store.find(StepSizes, other) is None


def test_a_result_of_another_key_is_not_saved(store):
    with pytest.raises(ArgumentError, match="expected a steps whose path_digest is 'other'"):
        store.get(StepSizes, "other", lambda checkpoint: step_sizes(PATH))
    assert not store.directory.exists()


def test_what_stops_goes_on_and_what_ends_leaves_no_checkpoint(store):
    key = key_of(PATH)

    def stops(checkpoint):
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get(StepSizes, key, stops, where="workers")
    begun = store.checkpoint(StepSizes, key, where="workers")
    assert begun.name == f"steps-{key[:12]}.workers.points"

    def goes_on(checkpoint):
        assert checkpoint.read_text() == "half"
        return step_sizes(PATH)

    store.get(StepSizes, key, goes_on, where="workers")
    assert not begun.exists()


def test_damage_is_told_and_never_computed_over(store):
    key = key_of(PATH)
    file = store.save(step_sizes(PATH), key)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DamagedError):
        store.get(StepSizes, key, lambda checkpoint: pytest.fail("computed"))
    assert isinstance(damage_of(file), DamagedError)


def test_planes_and_labels(store):
    plane = fit_plane(PATH)
    digest = plane.path.path_digest
    file = store.save(plane, digest, label="mine")
    assert file.name == f"plane-mine-{digest[:12]}.npz"
    assert damage_of(file) is None
    assert store.find(PrincipalPlane, digest) is None
    found = store.find(PrincipalPlane, digest, label="mine")
    np.testing.assert_array_equal(found.basis, plane.basis)


def test_kinds_that_are_not_known(store, tmp_path):
    with pytest.raises(ArgumentError, match="expected a class of results that is registered"):
        store.find(dict, "key")
    with pytest.raises(ArgumentError, match="expected a name that is free, got 'surface'"):
        register("surface", "elsewhere:Surface")
    with pytest.raises(ArgumentError, match="expected a name of letters"):
        register("a-b", "elsewhere:Surface")
    (tmp_path / "notes-of-mine.npz").write_text("what is no result of this package's")
    assert damage_of(tmp_path / "notes-of-mine.npz") is None


class Mine:
    """A result of somebody else's."""

    def __init__(self, values, provenance):
        self.values, self.provenance = values, provenance

    def save(self, path):
        save_archive(path, "mine", 1, {"values": self.values}, self.provenance)

    @classmethod
    def load(cls, path):
        arrays, provenance = load_archive(path, "mine", 1)
        return cls(arrays["values"], provenance)


def test_results_of_somebody_elses(store, monkeypatch):
    monkeypatch.setattr(losspath.results, "KINDS", dict(losspath.results.KINDS))
    register("mine", f"{__name__}:Mine", key="of")
    made = Mine(np.arange(3.0), {"of": "this"})
    store.get(Mine, "this", lambda checkpoint: made)
    np.testing.assert_array_equal(store.find(Mine, "this").values, [0, 1, 2])
    file = store.file(Mine, "this")
    assert damage_of(file) is None
    file.write_bytes(file.read_bytes()[:100])
    assert isinstance(damage_of(file), DamagedError)


@pytest.mark.parametrize("kind", [Dynamics, Surface, StepSizes])
def test_a_file_that_holds_something_else(store, kind):
    store.save(fit_plane(PATH), fit_plane(PATH).path.path_digest)
    (plane,) = store.directory.iterdir()
    plane.rename(store.file(kind, "key"))
    with pytest.raises(StoreError, match="'plane' and not a"):
        store.find(kind, "key")
