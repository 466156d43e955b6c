"""Random modules, data and losses: the objective and its surfaces are those of a plain loop."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from losspath import Recorder, Trajectory, compute_surface, fit_plane
from losspath.evaluation.execution import engine, tuning
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Rows
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.surface import evaluate_states
from random_modules import LAYERS, SERIES, Problem, content, problems, states_around

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning"),
]

CONFIGS = [
    EngineConfig(batch_size=5, threads=1, first_layer_group=1, group_size=8),
    EngineConfig(batch_size=7, threads=2, first_layer_group=3, group_size=4),
    EngineConfig(batch_size=9, threads=1, first_layer_group=3, group_size=5, vmap_size=4),
    EngineConfig(batch_size=64, threads=1, first_layer_group=2, group_size=3, channels_last=True),
]


@pytest.fixture(scope="module", autouse=True)
def always_fast():
    """The engine is used however little there is to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_SMALL", 0)
        yield patch


def close(value):
    return pytest.approx(value, rel=1e-5, abs=1e-6)


def check(problem, config, patch, surface=True):
    """Holds an objective, the engine and a surface against the plain loop; gives the engine."""
    patch.setattr(tuning, "remembered", lambda key, measure: config)
    model, data = problem.model(), problem.data()
    loss = problem.loss_fn(model)
    before = content(model, *data)
    objective = problem.objective(model, *data, loss)
    states = states_around(model, problem.seed)
    plain = [problem.plain(state) for state in states]
    assert [objective(state).loss for state in states] == [close(value) for value in plain]
    fast = Engine(objective)
    found = [each.loss for part in fast.evaluate(Rows(states)) for _, each in part]
    assert found == [close(value) for value in plain]
    if surface:
        plane = fit_plane(states)
        drawn = compute_surface(states, objective, "pca", 3, plane=plane, states=2)
        for i, j in ((0, 2), (1, 1)):
            vector = plane.origin + plane.basis @ [drawn.x[j], drawn.y[i]]
            assert drawn.loss[i, j] == close(problem.plain(vector))
    assert content(model, *data) == before
    return fast


# Whatever is no function of one sample, writes into what others share, or cannot be watched.
PLAIN = {
    "teacher", "experts", "experts by masks", "until small", "written slices", "a view written",
    "writes into its input", "renormed words", "counting", "merging", "vmapped", "scripted",
    "dropout", "relu", "elu", "packed", "encoder, norm first", "encoder, causal",
    "encoder, padded", "attention, padded", "attention, both",
}  # fmt: skip


def one_layer(form, name, config, patch, surface):
    loss = "entropy" if name == "renormed words" else "penalised"
    problem = Problem(form, ((name, False),), loss, "by kind", 23, 9, 0, True, True)
    fast = check(problem, config, patch, surface)
    assert ("plain loop" in fast.notes[0]) == (name in PLAIN), fast.notes


@pytest.mark.mostly_slow(33)
@pytest.mark.parametrize("name", LAYERS["vectors"])
def test_layers_of_vectors(always_fast, name):
    one_layer("vectors", name, CONFIGS[1], always_fast, surface=False)


@pytest.mark.parametrize("name", SERIES)
def test_layers_of_series(always_fast, name):
    one_layer("series", name, CONFIGS[0], always_fast, surface=False)


@pytest.mark.parametrize("name", LAYERS["images"])
def test_layers_of_images(always_fast, name):
    one_layer("images", name, CONFIGS[3], always_fast, surface=False)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(problem=problems(), config=st.sampled_from(CONFIGS))
def test_random_modules(always_fast, problem, config):
    check(problem, config, always_fast)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(problem=problems(most=6), config=st.sampled_from(CONFIGS))
def test_many_random_modules(always_fast, problem, config):
    check(problem, config, always_fast)


def test_layers_that_hardly_notice(always_fast):
    """The second layer takes whole numbers of the first, which holds its weight as a tensor."""
    layers = (("old spectral norm", False), ("linear", False), ("words", False))
    problem = Problem("vectors", layers, "entropy", "as drawn", 2, 1, 0, False, False)
    check(problem, CONFIGS[0], always_fast)
    check_run(problem, always_fast)


def check_run(problem, patch):
    """Each state of a recorded run, with what was recorded beside it, against the same training."""
    patch.setattr(tuning, "remembered", lambda key, measure: CONFIGS[0])
    try:
        plain = [problem.after(steps) for steps in range(4)]
    except RuntimeError as error:  # written over what autograd needs
        assume("modified by an inplace operation" not in str(error))
        raise
    assume(np.isfinite(plain).all())
    with tempfile.TemporaryDirectory() as directory:
        recorders = []

        def record(model):
            recorders.append(Recorder(Path(directory) / "run", model))
            return recorders[0].record

        trained = problem.trained(3, record)
        recorders[0].close()
        path = Trajectory(Path(directory) / "run")
        for model in (trained, problem.model()):
            data = problem.data()
            loss = problem.loss_fn(model)
            before = content(model, *data)
            objective = problem.objective(model, *data, loss)
            found = evaluate_states(path, objective, np.arange(4)).loss
            assert found.tolist() == [close(value) for value in plain]
            assert content(model, *data) == before


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(problem=problems())
def test_random_runs(always_fast, problem):
    check_run(problem, always_fast)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(problem=problems(most=6))
def test_many_random_runs(always_fast, problem):
    check_run(problem, always_fast)
