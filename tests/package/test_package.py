"""The package as it is handed out: built, installed into empty environments, and used there."""

import re
import shutil
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from package_environments import OLDEST, ROOT, Environment, run

pytestmark = [pytest.mark.package, pytest.mark.timeout(1800)]

PROGRAMS = Path(__file__).parent / "programs"
OWN = ("--objective", "own_program.py:objective")
EXTRAS = ["thesis", "diagnose", "compare", "dask", "h5", "lightning", "transformers"]
NEEDED = 16 << 30  # bytes of disk that environments take while they are there
# What is run with the oldest versions.
CHOSEN = [
    "tests/test_known_answers.py",
    "tests/test_surface.py",
    "tests/test_landscape.py",
    "tests/test_results.py",
    "tests/methods",
    "tests/geometry",
    "tests/recording/test_recorder.py",
    "tests/recording/test_trajectory.py",
    "tests/recording/test_resuming.py",
    "tests/evaluation/test_objective.py",
    "tests/evaluation/test_derivatives.py",
    "tests/evaluation/test_recorded_buffers.py",
    "tests/evaluation/test_tape.py",
    "tests/figures",
    "tests/cli/test_errors.py",
    "tests/libraries/test_lightning.py",
    "tests/libraries/test_transformers_trainer.py",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution and the wheel that is built of it."""
    directory = tmp_path_factory.mktemp("dist")
    if (free := shutil.disk_usage(directory).free) < NEEDED:
        pytest.skip(f"environments need {NEEDED >> 30} GiB of disk, there are {free >> 30}")
    done = run(sys.executable, "-m", "build", ROOT, "--outdir", directory, cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = directory.glob("*.tar.gz"), directory.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def core(built, tmp_path_factory):
    """An environment with the package and what it cannot do without."""
    environment = Environment(tmp_path_factory.mktemp("core"))
    environment.install(built[1])
    return environment


@pytest.fixture(scope="module")
def recorded(core, tmp_path_factory):
    """Where a user's program has recorded a run."""
    work = Path(shutil.copytree(PROGRAMS, tmp_path_factory.mktemp("recorded") / "work"))
    done = core.python("own_program.py", cwd=work)
    assert (done.returncode, done.stderr) == (0, "")
    assert (work / "surface.png").stat().st_size > 10_000
    return work


@pytest.fixture
def work(recorded, tmp_path):
    """A copy of it, to do anything with."""
    return Path(shutil.copytree(recorded, tmp_path / "work"))


def contents(wheel):
    with zipfile.ZipFile(wheel) as files:
        return {name: files.read(name) for name in files.namelist()}


def succeeds(done):
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_package_and_nothing_else(built):
    files = contents(built[1])
    expected = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "losspath").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = {name for name in files if ".dist-info/" in name}
    assert files.keys() - about == expected
    assert "losspath/py.typed" in files
    assert {name.partition("/")[2] for name in about} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    command = ("-m", "build", "--wheel", ROOT, "--outdir", tmp_path)
    succeeds(run(sys.executable, *command, cwd=tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    assert contents(wheel) == contents(built[1])


def test_an_index_would_take_it_and_show_no_dead_link(built):
    succeeds(run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=ROOT))
    (about,) = (text for name, text in contents(built[1]).items() if name.endswith("/METADATA"))
    description = message_from_string(about.decode()).get_payload()
    assert "## Your own model, in ten lines" in description
    assert not re.findall(r"\]\((?!https?:)", description)
    assert "![" not in description


def test_the_command_line_draws_what_a_program_recorded(core, work):
    told = core.losspath("--help", cwd=work).stdout
    assert all(f" {command} " in told for command in ("surface", "import", "train")), told
    for command in (
        ("info", "run"),
        ("surface", "run", *OWN, "--method", "all", "--resolution", "5"),
        ("interpolate", "run", *OWN, "--points", "5"),
        ("steps", "run"),
        ("dynamics", "run", *OWN, "--states", "3"),
        ("import", "step-*.pt", "--out", "imported"),
    ):
        succeeds(core.losspath(*command, cwd=work))
    kinds = {figure.name.partition("-")[0] for figure in (work / "run" / "figures").glob("*.png")}
    assert kinds >= {"surface", "interpolation", "steps", "dynamics"}, kinds


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (("-m", "losspath", "train"), "requests", "thesis"),
        (("-m", "losspath", "demo"), "requests", "thesis"),
        (("-m", "losspath", "study", "thesis"), "requests", "thesis"),
        (("-m", "losspath", "diagnose", "run", *OWN), "torchinfo", "diagnose"),
        (
            ("-m", "losspath", "surface", "run", *OWN, "--scheduler", "tcp://127.0.0.1:1"),
            "distributed",
            "dask",
        ),
        (("compare_two_surfaces.py",), "skimage", "compare"),
        (("-c", "import losspath; losspath.load_h5_surface('step-0.pt')"), "h5py", "h5"),
        (("-c", "import losspath.lightning"), "lightning", "lightning"),
        (("-c", "import losspath.transformers"), "transformers", "transformers"),
    ],
)
def test_what_is_missing_is_named(core, work, command, package, extra):
    done = core.python(*command, cwd=work)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].partition("rror: ")[2] == (
        f"this needs {package}, which is not installed: pip install 'losspath[{extra}]'"
    )


ENTRIES = {
    "thesis": [
        ("-m", "losspath", "train", "--epochs", "1", "--out", "trained"),
        ("-m", "losspath", "surface", "trained", "--resolution", "3"),
    ],
    "diagnose": [
        ("-m", "losspath", "diagnose", "run", *OWN, "--view", "architecture"),
        ("explain_outputs.py",),
    ],
    "compare": [("compare_two_surfaces.py",)],
    "h5": [("load_a_surface.py",)],
    "dask": [("evaluate_by_dask.py",)],
    "lightning": [("record_by_lightning.py",)],
    "transformers": [("record_by_transformers.py",)],
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_is_enough_for_what_it_is_for(built, core, work, tmp_path, extra):
    environment = Environment(tmp_path / "environment", over=core)
    environment.install(f"{built[1]}[{extra}]")
    for command in ENTRIES[extra]:
        succeeds(environment.python(*command, cwd=work))


@pytest.fixture(scope="module")
def oldest(built, tmp_path_factory):
    """An environment with the oldest version of everything. Large: torch's build is for GPUs."""
    environment = Environment(tmp_path_factory.mktemp("oldest"))
    environment.install(
        f"{built[1]}[{','.join(EXTRAS)}]",
        *("pytest", "pytest-timeout", "pytest-xdist", "hypothesis"),
        constraint=OLDEST,
    )
    return environment


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_oldest_versions_have_every_entry(oldest, work, extra):
    for command in ENTRIES[extra]:
        succeeds(oldest.python(*command, cwd=work))


def test_the_oldest_versions_pass_the_tests(oldest):
    where = oldest.python("-c", "import losspath; print(losspath.__file__)", cwd=ROOT)
    assert Path(where.stdout).is_relative_to(oldest.packages)
    options = ("-p", "no:cacheprovider", "--quiet", "-m", "not slow", "--numprocesses", "2")
    done = oldest.python("-m", "pytest", *options, *CHOSEN, cwd=ROOT, timeout=1200)
    succeeds(done)
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 1000
