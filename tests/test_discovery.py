"""Methods, distances and planes of one's own: found by their files, and keyed by their code."""

import importlib
import shutil
import sys

import numpy as np
import pytest

from cases import objective_of
from losspath import Grid, Landscape, compute_surface
from losspath.discovery import classes_by_name, modules_in
from losspath.errors import ArgumentError, UnsupportedError
from losspath.methods import (
    METHODS,
    PCA,
    Averaged,
    Method,
    Sampled,
    method_named,
    method_names,
)
from losspath.planes import named

MINE = """
from dataclasses import dataclass
import numpy as np
from losspath.distances import Distance
from losspath.methods import Method

@dataclass(frozen=True)
class Mine(Method):
    name = "mine"

    def weights(self, points, path):
        return np.full((len(points), len(path)), SHARE / len(path))

@dataclass(frozen=True)
class Twice(Distance):
    name = "twice"

    def distances(self, points, path):
        return SHARE * np.abs(points[:, None] - path.coordinates[None]).sum(axis=2)

SHARE = 1.0
"""
PATH = np.cumsum(np.random.default_rng(0).standard_normal((8, 5)), axis=0)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose modules a test writes."""
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "some"
    for name in [name for name in sys.modules if name.partition(".")[0] == "some"]:
        del sys.modules[name]


def loaded(package, **files):
    for name, content in files.items():
        file = package / f"{name}.py"
        file.write_text(content)
        shutil.rmtree(package / "__pycache__", ignore_errors=True)  # of a file of the same second
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "some"]:
        del sys.modules[name]
    return importlib.import_module("some")


def key_of(method):
    landscape = Landscape(PATH, objective_of(lambda w: w.pow(2).sum(), 5), method)
    return landscape.key(Grid.around(landscape.projection.coordinates, 3))


@pytest.mark.parametrize("rule", ["method", "distance"])
def test_a_surface_follows_the_code_of_a_rule(package, rule):
    keys = []
    commented = MINE.replace("SHARE = 1.0", "# half\nSHARE = 1.0")
    for content in (MINE, commented, MINE.replace("SHARE = 1.0", "SHARE = 2.0")):
        loaded(package, mine=content)
        module = importlib.import_module("some.mine")
        method = module.Mine() if rule == "method" else Sampled(distance=module.Twice())
        keys.append(key_of(method))
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_classes_are_found_by_their_files_after_those_that_come_first(package):
    some = loaded(package, mine=MINE)
    found = classes_by_name("some", some.__path__, Method, (Sampled, Averaged))
    assert list(found) == ["sampled", "averaged", "mine"]
    assert found["mine"].__module__ == "some.mine"


def test_two_of_one_name_are_refused(package):
    some = loaded(package, mine=MINE.replace('"mine"', '"sampled"'))
    with pytest.raises(ArgumentError, match=r"some.mine.Mine, got 'sampled', which losspath.meth"):
        classes_by_name("some", some.__path__, Method, (Sampled,))
    with pytest.raises(ArgumentError, match="expected a name of its own for a plane, got 'pca'"):
        named("pca")(lambda rest, path, objective: None)


def test_a_file_that_cannot_be_loaded_is_named(package):
    some = loaded(package, broken="class Mine(Methd): pass")
    with pytest.raises(UnsupportedError, match=r"some.broken cannot be loaded, as NameErr.*Methd"):
        list(modules_in("some", some.__path__))


@pytest.mark.parametrize("kind", METHODS.values())
def test_the_packages_own_are_not_keyed_by_their_code(kind, monkeypatch):
    def fails(thing):
        raise AssertionError(thing)

    monkeypatch.setattr("losspath.surface.lifted.code_beside", fails)
    assert key_of(kind())


def test_weights_of_another_shape_are_told(package):
    loaded(package, mine=MINE.replace("(len(points), len(path))", "(len(path), len(points))"))
    method = importlib.import_module("some.mine").Mine()
    landscape = Landscape(PATH, objective_of(lambda w: w.pow(2).sum(), 5), method)
    with pytest.raises(ArgumentError, match=r"method mine to give weights \(2, 8\).*\(8, 2\)"):
        landscape.evaluate([[0.0, 0.0], [1.0, 0.0]])


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Makes a package that adds methods: entry points by name, and the code of its module."""

    def add(code, **entries):
        (tmp_path / "added_methods.py").write_text(code)
        info = tmp_path / "added_methods-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added-methods\nVersion: 1.0\n")
        lines = [f"{name} = added_methods:{value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("[losspath.methods]\n" + "\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "added_methods", raising=False)

    yield add
    sys.modules.pop("added_methods", None)


def test_a_package_adds_a_method(added):
    added(MINE, mine="Mine")
    assert "mine" in method_names()
    assert "added_methods" not in sys.modules  # names alone load nothing
    assert type(method_named("mine")).__module__ == "added_methods"
    surface = compute_surface(PATH, objective_of(lambda w: w.pow(2).sum(), 5), "mine", 3)
    assert surface.provenance["method"]["name"] == "mine"
    with pytest.raises(ArgumentError, match=r"pca, .*mine"):
        method_named("other")


def test_the_packages_own_methods_stand_before_those_that_are_added(added):
    added(MINE.replace('"mine"', '"pca"'), pca="Mine")
    assert method_named("pca") == PCA()
    assert method_names().count("pca") == 1


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (MINE.replace("class Mine", "class Other"), "cannot be loaded: AttributeError"),
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError: .*no_such_module"),
        (MINE.replace('"mine"', '"yours"'), "expected added_methods:Mine .* a Method named 'mine'"),
        ("class Mine:\n    name = 'mine'", "of the package added-methods as a Method named"),
        ("Mine = 3", "got 3; mend or uninstall that package"),
    ],
)
def test_an_added_method_that_is_none_is_told(added, code, says):
    added(code, mine="Mine")
    with pytest.raises(UnsupportedError, match=says):
        method_named("mine")
