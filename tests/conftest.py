import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from killing import Server


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(items):
    """Of a test that is marked ``mostly_slow(n)``, n cases from all over its list are not slow."""
    cases = {}
    for item in items:
        if item.get_closest_marker("mostly_slow"):
            cases.setdefault((item.path, item.originalname), []).append(item)
    for several in cases.values():
        keep = several[0].get_closest_marker("mostly_slow").args[0]
        kept = {len(several) * number // keep for number in range(keep)}
        for number, item in enumerate(several):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Nothing is read from or left in the user's cache; children inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def server(_own_cache):
    """Runs the command line in children that can be killed."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A small run of `losspath train`; tests get copies of it (`run`)."""
    from losspath.thesis.config import TrainingConfig
    from losspath.thesis.datasets import load_dataset
    from losspath.thesis.training import train

    directory = tmp_path_factory.mktemp("trained") / "run"
    config = TrainingConfig(network="tiny-cnn", data="digits", lr=0.05)
    train(config, load_dataset("digits"), directory, epochs=2)
    return directory


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of a small run, to do anything with."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))
