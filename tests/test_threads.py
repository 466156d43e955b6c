"""How many threads are used: by affinity, quota, option and variable."""

import os
import subprocess
import sys

import pytest

from losspath import threads
from losspath.threads import available_cores, use_threads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of eight cores, in a cgroup whose files the test writes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_ROOT", tmp_path / "fs")
    (tmp_path / "fs" / "a" / "b").mkdir(parents=True)
    (tmp_path / "fs" / "cpu" / "a").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("", {}, 8),
        ("0::/a/b", {}, 8),
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, 8),
        ("0::/a/b", {"a/b/cpu.max": "250000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "6400000 100000"}, 8),
        ("0::/", {"cpu.max": "nonsense"}, 8),
        ("0::/../elsewhere", {"cpu.max": "200000 100000"}, 2),
        (
            "4:cpuset:/a\n5:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000"},
            4,
        ),
        (
            "5:cpu:/a",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            8,
        ),
    ],
)
def test_cores_by_quota(machine, lines, files, cores):
    (machine / "cgroup").write_text(lines)
    for name, content in files.items():
        (machine / "fs" / name).write_text(content + "\n")
    assert available_cores() == cores


def test_no_cgroups_and_no_affinity(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path / "none")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def run(program, **variables):
    """What a Python program prints that has these of the variables on threads alone."""
    ours = ("NUM_THREADS", "GOMP_", "OMP_WAIT")
    environment = {k: v for k, v in os.environ.items() if not any(name in k for name in ours)}
    done = subprocess.run(
        [sys.executable, "-c", "from losspath.threads import use_threads\n" + program],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def told(arguments, **variables):
    """How many threads torch has once the program's options are read."""
    program = f"use_threads({arguments})\nimport torch\nprint(torch.get_num_threads())"
    return int(run(program, **variables))


@pytest.mark.parametrize(
    ("variables", "spins"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
        ({"OMP_NUM_THREADS": "1"}, "3000"),
    ],
)
def test_threads_wait_for_each_other_for_a_short_time_unless_something_else_is_asked(
    variables, spins
):
    program = "import os\nuse_threads(None)\nprint(os.environ.get('GOMP_SPINCOUNT'))"
    assert run(program, **variables) == spins


def test_the_command_line_asks_for_it_before_torch_is_loaded():
    program = (
        "import os, sys\n"
        "from losspath.cli import main\n"
        "try:\n    main(['info', 'nowhere'])\n"
        "except SystemExit:\n    pass\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    assert run(program) == "3000"


def test_what_waits_is_left_as_it_is_once_torch_is_loaded(monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    use_threads(2)
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.slow
def test_what_is_asked_for_counts():
    assert told("1") == 1
    assert told("1", OMP_NUM_THREADS="2") == 1
    assert told("None", OMP_NUM_THREADS="1") == 1


def test_torch_that_is_loaded_is_told(monkeypatch):
    counts = []
    monkeypatch.setattr("torch.set_num_threads", counts.append)
    use_threads(3)
    assert counts == [3]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: 0.5)
    use_threads(None)
    assert counts == [3, 1]


@pytest.mark.parametrize("given", [("--threads", "1"), ("variable",)])
def test_the_option_and_the_variable(monkeypatch, given):
    from losspath.cli import main

    counts = []
    monkeypatch.setattr("losspath.cli.app.use_threads", counts.append)
    if given == ("variable",):
        monkeypatch.setenv("LOSSPATH_THREADS", "1")
        given = ()
    with pytest.raises(SystemExit):
        main([*given, "info", "nowhere"])
    assert counts == [1]
    with pytest.raises(SystemExit) as end:
        main(["--threads", "0", "info", "nowhere"])
    assert end.value.code == 2
