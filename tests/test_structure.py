"""The stages' order, the package's exports, and what is never imported."""

import ast
import graphlib
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import losspath
import losspath.errors

SOURCE = Path(losspath.__file__).parent

BASE = {
    "errors",
    "files",
    "parameters",
    "arguments",
    "discovery",
    "extras",
    "user_cache",
    "objects",
    "threads",
}
# The caller's model is kept as it is, a loss is one of parameters, a pass is compiled, points run.
EVALUATION = {"evaluation.isolation", "evaluation", "evaluation.compiler", "evaluation.execution"}
COMPUTING = BASE | EVALUATION | {"recording", "geometry", "methods", "surface", "analysis"}
# What each stage may import. Every stage comes after all that it may import.
MAY_IMPORT = {
    "errors": set(),
    "arguments": {"errors"},
    "discovery": {"errors"},
    "extras": {"errors"},
    "files": {"errors"},
    "parameters": {"errors", "arguments"},
    "threads": set(),
    "user_cache": set(),
    "objects": {"parameters"},
    "recording": BASE,
    "importing": BASE | {"recording"},
    "geometry": BASE | {"recording"},
    "distances": BASE | {"recording", "geometry"},
    "methods": BASE | {"recording", "geometry", "distances"},
    "evaluation.isolation": BASE,
    "evaluation": BASE | {"recording", "evaluation.isolation"},  # states have their own buffers
    "evaluation.compiler": BASE | {"evaluation.isolation"},
    "evaluation.execution": BASE | EVALUATION - {"evaluation.execution"},
    "results": BASE | {"evaluation.execution"},
    "planes": BASE | {"recording", "geometry"} | EVALUATION,
    "surface": BASE | {"recording", "geometry", "distances", "methods"} | EVALUATION,
    "analysis": BASE | {"recording", "geometry", "distances", "methods", "surface"} | EVALUATION,
    "figures": BASE | {"geometry", "surface", "analysis"},
    "makers": BASE | {"recording", "evaluation", "analysis"},
    "cli": COMPUTING | {"planes", "results", "figures", "makers", "importing"},
    "imported": BASE | {"recording", "evaluation", "makers"},
    "lightning": BASE | {"recording"},  # callbacks of other libraries; nothing imports them
    "transformers": BASE | {"recording"},
    "__main__": {"cli"},
    "__init__": set(),
    # The annex. The core imports nothing of it.
    "thesis": COMPUTING | {"makers"},
    "thesis.study": COMPUTING | {"planes", "results", "figures", "thesis"},
    "thesis.cli": COMPUTING | {"planes", "results", "figures", "cli", "thesis", "thesis.study"},
}
ANNEX = {stage for stage in MAY_IMPORT if stage.startswith("thesis")}
UNSAFE = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def trees(root):
    """Every module below a package's folder, with its name's parts and its syntax tree."""
    for file in sorted(root.rglob("*.py")):
        yield file, file.relative_to(root).with_suffix("").parts, ast.parse(file.read_text())


def dotted(node):
    """The name that an expression like a.b.c spells, or nothing."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""


def imported(tree, parts):
    """Full names of all that a module of losspath imports, at any depth, also for type checking.

    ``losspath.name`` counts as an import: the package loads what it exports on first use.
    """
    package = ("losspath", *parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield dotted(node), node.lineno
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            given = node.args[0] if node.args else None
            name = given.value if isinstance(given, ast.Constant) else "losspath.unknown"
            yield str(name), node.lineno


def stage_of(parts):
    """The stage that a module belongs to, by its name's parts without the package's."""
    inner = ".".join(parts[:2])
    return inner if inner in MAY_IMPORT else parts[0]


def backward_imports(root):
    """Every import that points backwards, as "file:line: name"."""
    found = set()
    for _, parts, tree in trees(root):
        stage = stage_of(parts)
        if stage == "__init__":  # re-exports everything, on first use
            continue
        for name, line in imported(tree, parts):
            if not name.startswith("losspath.") or name == "losspath.__version__":
                continue
            target = stage_of(name.split(".")[1:])
            if target != stage and target not in MAY_IMPORT[stage]:
                found.add(f"{'/'.join(parts)}.py:{line}: {name}")
    return sorted(found)


def test_no_module_imports_from_a_later_stage():
    assert backward_imports(SOURCE) == []


def test_every_stage_has_its_place_in_the_order():
    stages = {stage_of(parts) for _, parts, _ in trees(SOURCE)}
    assert stages == set(MAY_IMPORT)
    done = set()
    for stage, earlier in MAY_IMPORT.items():
        assert earlier <= done, f"{stage} comes before something that it may import"
        done.add(stage)


def test_no_modules_import_each_other():
    """In no circle of any length, not even for types alone."""
    modules = {
        ".".join(("losspath", *parts)).removesuffix(".__init__"): (parts, tree)
        for _, parts, tree in trees(SOURCE)
    }
    graph = {}
    for module, (parts, tree) in modules.items():
        names = [name for name, _ in imported(tree, parts)]
        if module == "losspath" or parts[-1] == "__init__":
            continue  # re-exports what is below it
        parents = {name.rpartition(".")[0] for name in names} | {*names}
        graph[module] = parents & modules.keys() - {module, "losspath"}
    # A window is of a trajectory, which gives it out, and so are notes.
    graph["losspath.recording.window"].remove("losspath.recording.trajectory")
    graph["losspath.recording.notes"].remove("losspath.recording.trajectory")
    graphlib.TopologicalSorter(graph).prepare()


def test_the_core_imports_nothing_of_the_annex():
    for stage in MAY_IMPORT.keys() - ANNEX:
        assert not MAY_IMPORT[stage] & ANNEX, stage
    for file, parts, tree in trees(SOURCE):
        if stage_of(parts) not in ANNEX:
            texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
            named = [text for text in texts if isinstance(text, str) and "losspath.thesis" in text]
            assert not named, file  # nor is it loaded by its name


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("recording/store.py", "from losspath.geometry.plane import Plane"),
        ("recording/store.py", "import losspath.surface"),
        ("recording/store.py", "import numpy, losspath.surface as later"),
        ("recording/store.py", "from losspath import surface"),
        ("recording/store.py", "from losspath import Surface"),
        ("recording/store.py", "import losspath\n\ndef f():\n    return losspath.Surface"),
        ("recording/store.py", "from ..geometry import plane"),
        ("recording/store.py", "from .. import geometry"),
        ("recording/store.py", "import importlib\nimportlib.import_module('losspath.surface')"),
        ("recording/store.py", "import importlib\nimportlib.import_module('losspath.' + 'cli')"),
        ("geometry/plane.py", "from losspath.methods import Method"),
        ("methods/pca.py", "from losspath.evaluation.objective import Objective"),
        ("evaluation/isolation/links.py", "from losspath.evaluation.objective import Objective"),
        ("evaluation/objective.py", "from losspath.evaluation.execution.engine import Engine"),
        ("evaluation/compiler/tape.py", "from losspath.evaluation.objective import Objective"),
        ("evaluation/objective.py", "from losspath.geometry.blend import blend"),
        ("evaluation/objective.py", "from losspath.methods import Method"),
        ("evaluation/objective.py", "def f():\n    from losspath.surface import Surface"),
        ("surface.py", "from losspath.analysis.steps import StepSizes"),
        ("analysis/steps.py", "from losspath.figures import plot_step_sizes"),
        ("analysis/steps.py", "from losspath.thesis import networks"),
        ("cli/jobs.py", "from losspath.thesis.schedules import name_sizes"),
        ("cli/app.py", "def f():\n    from losspath.thesis.cli import train_command"),
        ("makers.py", "import importlib\nimportlib.import_module('losspath.thesis.maker')"),
        (
            "analysis/steps.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import losspath.figures",
        ),
        ("figures/curves.py", "from losspath.thesis.training import train"),
        ("figures/curves.py", "from losspath.evaluation.objective import Objective"),
        ("thesis/training.py", "from losspath.cli import main"),
        ("thesis/training.py", "from losspath.figures import plot_surface"),
        ("thesis/training.py", "from losspath.thesis.study import plan"),
        ("thesis/study/run.py", "from losspath.thesis.cli import study"),
        ("files.py", "from losspath.parameters import Layout"),
        ("errors.py", "from losspath import files"),
        ("surface.py", "from losspath.methods.method import Method\nfrom losspath.cli import main"),
    ],
)
def test_the_check_finds_a_backward_import(tmp_path, module, code):
    file = tmp_path / module
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("from losspath import __version__\nfrom losspath.errors import LosspathError\n")
    assert module == "errors.py" or backward_imports(tmp_path) == []
    file.write_text(code + "\n")
    (found,) = backward_imports(tmp_path)
    assert found.startswith(f"{module}:")


def is_guarded(node):
    """Whether it is a call with ``weights_only=True``, which unpickles tensors alone."""
    return isinstance(node, ast.Call) and any(
        each.arg == "weights_only" and getattr(each.value, "value", None) is True
        for each in node.keywords
    )


def unsafe(root):
    """Every way to read or write a pickle, as "file:line: name"."""
    found = []
    for file, parts, tree in trees(root):
        guarded = {node.lineno for node in ast.walk(tree) if is_guarded(node)}
        for name, line in sorted(set(imported(tree, parts))):
            if name == "torch.load" and parts[0] == "importing" and line in guarded:
                continue  # the one place that reads what others saved
            if name.split(".")[0] in UNSAFE or name in ("torch.load", "torch.save"):
                found.append(f"{file.name}:{line}: {name}")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            allowed = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if allowed.get("allow_pickle", False) is not False:
                found.append(f"{file.name}:{node.lineno}: allow_pickle")
    return found


def test_nothing_is_pickled():
    assert unsafe(SOURCE) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle as c",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load",
        "import torch\ntorch.save({}, 'x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nflag = 1\nnp.load('x', allow_pickle=flag)",
        "import importlib\nimportlib.import_module('pickle')",
    ],
)
def test_the_check_finds_a_pickle(tmp_path, code):
    (tmp_path / "files.py").write_text(code + "\n")
    assert len(unsafe(tmp_path)) == 1
    (tmp_path / "files.py").write_text(
        "import numpy as np\nimport safetensors.torch\n"
        "np.load('x', allow_pickle=False), safetensors.torch.load(b'')\n"
    )
    assert unsafe(tmp_path) == []


def loaded_by(code):
    """Names of all modules that are loaded after some code has run in a fresh interpreter."""
    code += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


DRAWING = {"matplotlib", "mpl_toolkits", "PIL"}
HEAVY = {"torch", "numpy", "sklearn", "scipy", "scipy.spatial", "typer", "rich", "pooch"}


@pytest.mark.slow
def test_nothing_loads_the_libraries_that_there_are_callbacks_for():
    loaded = loaded_by(
        "import losspath, losspath.cli\nfor name in losspath.__all__:\n    getattr(losspath, name)"
    )
    assert not loaded & {"lightning", "pytorch_lightning", "transformers", "accelerate"}
    assert not loaded & {"losspath.lightning", "losspath.transformers"}


def test_importing_the_package_loads_nothing():
    loaded = loaded_by("import losspath")
    assert not loaded & (DRAWING | HEAVY)
    assert {name for name in loaded if name.startswith("losspath")} == {"losspath"}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", ["Recorder", "compute_surface", "interpolate", "step_sizes"])
def test_using_a_name_loads_nothing_that_draws(name):
    loaded = loaded_by(f"import losspath; losspath.{name}")
    assert "torch" in loaded
    assert not loaded & (DRAWING | {"sklearn", "typer", "rich", "pooch"})
    assert not {"losspath.figures", "losspath.cli", "losspath.thesis"} & loaded


@pytest.mark.parametrize("command", [["--help"], ["surface", "--help"], ["--version"]])
def test_help_loads_no_torch_and_no_plug_in(command):
    loaded = loaded_by(
        "from losspath.cli import main\n"
        f"try:\n    main({command})\nexcept SystemExit as end:\n    assert end.code == 0"
    )
    assert {name.partition(".")[0] for name in loaded} & (DRAWING | HEAVY) <= {"typer", "rich"}
    stages = {name.split(".")[1] for name in loaded if name.startswith("losspath.")}
    assert stages == {"cli", "errors", "threads"}


def test_recording_loads_no_later_stage():
    loaded = loaded_by("import losspath; losspath.Recorder, losspath.Trajectory")
    stages = {name.split(".")[1] for name in loaded if name.startswith("losspath.")}
    assert stages == {"arguments", "errors", "files", "objects", "parameters", "recording"}


@pytest.mark.slow
def test_figures_never_load_pyplot():
    loaded = loaded_by("import losspath; losspath.plot_surface, losspath.plot_interpolation")
    assert "matplotlib" in loaded
    assert "matplotlib.pyplot" not in loaded


@pytest.mark.parametrize("name", losspath.__all__)
def test_every_exported_name_is_there(name):
    value = getattr(losspath, name)
    assert name in dir(losspath)
    if name not in ("__version__", "methods"):
        assert value.__name__ == name
        assert value.__module__.startswith(losspath._EXPORTS[name])
        assert value.__doc__


def test_the_exports_for_type_checkers_are_the_same():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    typed = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("losspath")
        for alias in node.names
        if alias.asname
    }
    assert typed.pop("methods") == "losspath"
    assert typed == losspath._EXPORTS


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Surfaces'"):
        _ = losspath.Surfaces
    with pytest.raises(ImportError):
        from losspath import Surfaces  # noqa: F401


@pytest.mark.parametrize(
    "module",
    [
        ".".join(("losspath", *parts)).removesuffix(".__init__")
        for _, parts, _ in trees(SOURCE)
        if parts != ("__main__",)
    ],
)
def test_every_module_can_be_imported_and_says_what_it_is_for(module):
    assert inspect.getdoc(importlib.import_module(module))


def test_every_error_derives_from_the_one():
    errors = [
        value
        for value in vars(losspath.errors).values()
        if inspect.isclass(value) and issubclass(value, BaseException)
    ]
    assert len(errors) > 10
    for error in errors:
        base = UserWarning if issubclass(error, Warning) else losspath.LosspathError
        assert issubclass(error, base)
        assert error.__module__ == "losspath.errors"
        assert error.__doc__
    for error in (losspath.errors.ArgumentError, losspath.errors.PathError):
        assert issubclass(error, ValueError)


def test_no_module_defines_an_error_of_its_own():
    # An error defined elsewhere would escape who catches those of losspath.errors.
    names = {name for name, value in vars(losspath.errors).items() if inspect.isclass(value)}
    for file, _, tree in trees(SOURCE):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and file.name != "errors.py":
                bases = {dotted(base).split(".")[-1] for base in node.bases}
                private = node.name.startswith("_")  # caught again where it is raised
                assert private or not bases & (names | {"Exception"}), (file, node.name)


LINES, BODY = 400, 60
# Packages where modules are still longer; this list only ever gets shorter.
LONGER = set()


def too_long(root):
    """Modules over the limit of lines, and functions over that of their bodies, docstring apart."""
    for file, parts, tree in trees(root):
        name = "/".join(parts) + ".py"
        if len(file.read_text().splitlines()) > LINES:
            yield name
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body and node.end_lineno - body[0].lineno + 1 > BODY:
                    yield f"{name}: {node.name}"


def test_modules_and_functions_are_short():
    assert sorted(set(too_long(SOURCE)) - LONGER) == []
    assert set(too_long(SOURCE)) >= LONGER, "shorter by now: take it from the list"


@pytest.mark.parametrize("over", [False, True])
def test_the_check_finds_what_is_too_long(tmp_path, over):
    body = "    pass\n" * (BODY + over)
    (tmp_path / "a.py").write_text(f'def long():\n    """Says\n    much."""\n{body}')
    (tmp_path / "b.py").write_text("pass\n" * (LINES + over))
    assert list(too_long(tmp_path)) == (["a.py: long", "b.py"] if over else [])
