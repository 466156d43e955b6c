"""The fast evaluation against the plain loop."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluated_models import KINDS, flat, moved, random_states, sample_case, snapshot
from torch import nn
from torch.overrides import has_torch_function

from losspath import Objective
from losspath.errors import LosspathWarning
from losspath.evaluation.compiler import first_layers, rewrites, tape
from losspath.evaluation.execution import accumulator, engine, tuning
from losspath.evaluation.execution.autotuner import Autotuner
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.fast import FastEvaluator
from losspath.evaluation.execution.points import Affine, Rows
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.evaluation.execution.verifying import Verifier
from losspath.thesis.networks import NETWORKS, build_network

CONFIGS = [
    EngineConfig(batch_size=5, threads=1, first_layer_group=1, group_size=32),
    EngineConfig(batch_size=7, threads=2, first_layer_group=3, group_size=4),
    EngineConfig(batch_size=100, threads=2, first_layer_group=4, group_size=3),
    EngineConfig(batch_size=9, threads=1, first_layer_group=3, group_size=5, vmap_size=4),
    EngineConfig(batch_size=8, threads=2, first_layer_group=2, group_size=4, channels_last=True),
]


@pytest.fixture(autouse=True)
def always_fast(monkeypatch):
    """However little there is to do."""
    monkeypatch.setattr(engine, "_SMALL", 0)


@pytest.fixture(params=CONFIGS, ids=str)
def config(request, monkeypatch):
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: request.param)
    return request.param


@pytest.fixture
def chosen(monkeypatch):
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: CONFIGS[1])


def objective_of(case):
    return Objective(case.model, case.inputs, case.targets, case.loss_fn)


def plane_around(vector, count=6, scale=0.2):
    generator = np.random.default_rng(1)
    directions = scale * generator.standard_normal((2, len(vector)))
    return Affine(vector, directions, generator.standard_normal((count, 2)))


def evaluate(fast, points, **options):
    found = [each for finished in fast.evaluate(points, **options) for each in finished]
    assert [number for number, _ in found] == sorted(number for number, _ in found)
    return [evaluation for _, evaluation in found]


def assert_equal_to_the_plain_loop(objective, points, is_fast=True):
    fast = Engine(objective)
    found = evaluate(fast, points)
    assert ("plain loop" in fast.notes[0]) == (not is_fast), fast.notes
    for evaluation, vector in zip(found, points.vectors(), strict=True):
        plain = objective(vector)
        assert evaluation.loss == pytest.approx(plain.loss, rel=1e-5)
        assert evaluation.accuracy == plain.accuracy
    return fast


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["plane", "separate"])
def test_every_kind_of_model(config, kind, form):
    case = sample_case(kind)
    points = plane_around(moved(case, 0.1))
    points = points if form == "plane" else Rows(points.vectors())
    special = kind in ("bfloat16", "float16", "complex", "counter")
    assert_equal_to_the_plain_loop(objective_of(case), points, is_fast=not special)


@pytest.mark.mostly_slow(10)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["plane", "separate"])
def test_every_network_of_the_project(config, network, form):
    torch.manual_seed(0)
    model = build_network(network, 1, 10, dropout=0.5)
    inputs, targets = torch.randn(23, 1, 32, 32), torch.randint(10, (23,))
    points = plane_around(flat(model), scale=0.01)
    points = points if form == "plane" else Rows(points.vectors())
    fast = assert_equal_to_the_plain_loop(
        Objective(model, inputs, targets, F.cross_entropy), points
    )
    first = next(name for name, _ in model.named_parameters())
    assert f"  same input at every point: {first}" in fast.notes


class Residual(nn.Module):
    """The input is used twice, by a layer and by itself; there is writing in place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        hidden = self.first(x.view(len(x), -1))
        hidden.mul_(self.scale).add_(x)
        return self.second(F.relu(hidden, inplace=True))


class Mapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x):
        return {"logits": self.inner(x), "other": (x, None)}


def summed(outputs, targets):
    return F.cross_entropy(outputs["logits"], targets, reduction="sum"), len(targets)


@pytest.mark.parametrize("form", ["plane", "separate"])
def test_other_shapes_of_models_and_losses(config, form):
    case = sample_case("mlp")
    for model, loss in ((Residual(), case.loss_fn), (Mapping(), summed)):
        points = plane_around(flat(model))
        points = points if form == "plane" else Rows(points.vectors())
        assert_equal_to_the_plain_loop(Objective(model, case.inputs, case.targets, loss), points)


def test_outputs_too_large_to_keep_are_counted_batch_by_batch(config, monkeypatch):
    monkeypatch.setattr(accumulator, "_OUTPUT_BYTES", 0)
    case = sample_case("conv")
    assert_equal_to_the_plain_loop(objective_of(case), plane_around(flat(case.model)))


@pytest.mark.parametrize(
    ("kind", "weight"), [("mlp", "0.weight"), ("conv", "0.weight"), ("attention", "words.weight")]
)
def test_the_first_layer_is_found(chosen, kind, weight):
    case = sample_case(kind)
    fast = Engine(objective_of(case))
    evaluate(fast, plane_around(flat(case.model)))
    assert any(note.endswith(f"same input at every point: {weight}") for note in fast.notes)


def test_a_fused_kernel_of_the_plain_loop_is_recorded_as_such(chosen):
    case = sample_case("attention")
    fast = Engine(objective_of(case))
    assert_equal_to_the_plain_loop(fast.objective, plane_around(flat(case.model)))
    with torch.no_grad():
        graph = tape.record(case.model.eval(), case.inputs).graph
    called = [getattr(node.target, "__name__", "") for node in graph.nodes]
    assert "_transformer_encoder_layer_fwd" in called
    assert torch.overrides.has_torch_function is has_torch_function


class Squeezing(nn.Linear):
    """Outputs of the form (N,), and () for a single sample."""

    def forward(self, x):
        return super().forward(x).squeeze()


@pytest.mark.parametrize("count", [22, 29, 701])
def test_a_last_batch_of_one_sample_may_have_another_form(chosen, count):
    torch.manual_seed(0)
    model = Squeezing(4, 1)
    inputs, targets = torch.randn(count, 4), torch.randn(count)

    def loss(outputs, targets):
        return F.mse_loss(outputs.reshape(targets.shape), targets)

    objective = Objective(model, inputs, targets, loss)  # in batches of 7: one is left
    points = plane_around(flat(model))
    assert_equal_to_the_plain_loop(objective, points)
    assert_equal_to_the_plain_loop(objective, Rows(points.vectors()))


def test_a_refusal_is_kept_where_the_computation_goes_on_from(chosen, monkeypatch):
    kept = []
    monkeypatch.setattr(Verifier, "check", lambda *arguments: ("1 against 2", True))
    case = sample_case("mlp")
    fast = Engine(objective_of(case), keep=lambda key, config: kept.append(config))
    with pytest.warns(LosspathWarning, match="differs from the plain loop"):
        evaluate(fast, plane_around(flat(case.model)))
    assert [config.plain for config in kept] == [True]


def test_points_without_a_finite_loss_do_not_decide_for_the_others(chosen):
    case = sample_case("mlp")
    points = plane_around(flat(case.model), count=4)
    nowhere = Affine(points.origin, points.directions, np.full((4, 2), np.nan))
    fast = Engine(objective_of(case))
    evaluate(fast, nowhere)
    assert "plain loop" in fast.notes[0]
    evaluate(fast, points)
    assert any("batches of" in note for note in fast.notes)


def test_losses_that_are_not_finite_stay_so(chosen):
    case = sample_case("mlp")
    points = plane_around(flat(case.model), count=5)
    points.coefficients[1], points.coefficients[3] = 1e38, np.nan
    objective = objective_of(case)
    found = evaluate(Engine(objective), points)
    for evaluation, vector in zip(found, points.vectors(), strict=True):
        plain = objective(vector)
        assert np.isnan(evaluation.loss) == np.isnan(plain.loss)
        assert np.isinf(evaluation.loss) == np.isinf(plain.loss)
    assert np.isnan(found[3].loss)


def test_layers_before_the_one_that_changes_are_computed_once_a_batch(chosen):
    torch.manual_seed(0)
    model = build_network("lenet5", 1, 10)
    objective = Objective(
        model, torch.randn(14, 1, 32, 32), torch.randint(10, (14,)), F.cross_entropy
    )
    vector = flat(model)
    direction = np.zeros((1, len(vector)))
    for entry in objective.layout.layers["fc2"]:
        direction[0, entry.place] = 0.1
    points = Affine(vector, direction, np.linspace(-1, 1, 4)[:, None])
    fast = assert_equal_to_the_plain_loop(objective, points)
    assert "  same input at every point: fc2.weight" in fast.notes
    # Two convolutions with their pooling, flattening and fc1 before it; ReLU and fc3 after it.
    assert "  9 calls once a batch, 2 at every point" in fast.notes


def test_the_first_layer_is_not_computed_at_every_point(monkeypatch, chosen):
    case = sample_case("conv")
    calls = []
    original = first_layers.Prepared.results

    def counted(prepared, weights, bias, count):
        calls.append((prepared.layer.weight, count))
        return original(prepared, weights, bias, count)

    objective, points = objective_of(case), plane_around(flat(case.model), count=4)
    fast = Engine(objective)
    evaluate(fast, points)
    monkeypatch.setattr(first_layers.Prepared, "results", counted)
    evaluate(fast, points)
    assert calls == [("0.weight", 3)] * 4  # origin and two directions, for each of four batches
    rows = Rows(np.concatenate([points.vectors()] * 2)[:7])
    fast = Engine(objective)
    evaluate(fast, rows)
    calls.clear()
    evaluate(fast, rows)
    # Parts of four and three points; of the first four, three share a call and one is left.
    assert sorted(calls) == sorted([("0.weight", count) for count in (3, 1, 3)] * 4)


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Writing(nn.Linear):
    def forward(self, x):
        x = x.clone()
        x[:, 0] = self.weight[0, 0]
        return super().forward(x)


class Foreign(nn.Linear):
    def forward(self, x):
        return super().forward(torch.from_numpy(2 * x.numpy()))


class ChangingItsInput(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(2.0))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "reads values"),
        (Writing, "writes into a tensor"),
        (Foreign, "reads values"),
        (ChangingItsInput, "writes into its input"),
    ],
)
def test_what_cannot_be_recorded_takes_the_plain_loop_and_a_note(kind, reason, chosen):
    case = sample_case("mlp")
    model = kind(6, 4)

    # One sample a batch, so that the branch depends on nothing but the sample.
    objective = Objective(model, case.inputs, case.targets, case.loss_fn, batch_size=1)
    fast = assert_equal_to_the_plain_loop(objective, plane_around(flat(model)), is_fast=False)
    assert reason in fast.notes[0]


def test_a_fast_path_that_is_wrong_is_found_and_not_used(chosen, monkeypatch):
    model = build_network("tiny-cnn", 1, 10)
    objective = Objective(
        model, torch.randn(9, 1, 32, 32), torch.randint(10, (9,)), F.cross_entropy
    )
    points = plane_around(flat(model), scale=0.01)
    plain = [objective(vector) for vector in points.vectors()]
    monkeypatch.setattr(rewrites, "max_of_slices", lambda values, size: F.avg_pool2d(values, size))
    with pytest.warns(LosspathWarning, match="differs from the plain loop"):
        assert evaluate(Engine(objective), points) == plain


@pytest.mark.parametrize("kind", ["conv", "attention", "lstm", "counter"])
def test_nothing_of_the_callers_changes(kind, config):
    case = sample_case(kind)
    case.model.train()
    objective, points = objective_of(case), plane_around(flat(case.model))
    before = snapshot(case.model), random_states(), case.inputs.clone()
    threads = torch.get_num_threads()
    evaluate(Engine(objective), points)
    evaluate(Engine(objective), Rows(points.vectors()))
    assert (snapshot(case.model), random_states()) == before[:2]
    assert torch.equal(case.inputs, before[2])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("error", [MemoryError, RuntimeError("shape mismatch")])
def test_a_failure_on_the_way_is_gone_on_from_by_the_plain_loop(chosen, monkeypatch, error):
    case = sample_case("mlp")
    objective, points = objective_of(case), plane_around(flat(case.model))
    fast, threads = Engine(objective), torch.get_num_threads()
    expected = [each.loss for each in evaluate(fast, points)]

    def fail(*arguments):
        raise error

    monkeypatch.setattr(Objective, "inputs_of", fail)
    found = [each.loss for each in evaluate(fast, points)]
    assert found == pytest.approx(expected, rel=1e-5)
    assert any("the plain loop from here on" in note for note in fast.notes)
    assert torch.get_num_threads() == threads


def test_results_do_not_depend_on_what_is_done(config):
    case = sample_case("conv")
    objective, points = objective_of(case), plane_around(flat(case.model), count=11)
    whole = evaluate(Engine(objective), points)
    for done in ({0}, {1, 2, 3, 4}, set(range(10)), set(range(11))):
        found = [e for finished in Engine(objective).evaluate(points, done=done) for e in finished]
        assert found == [(n, e) for n, e in enumerate(whole) if n not in done]


def test_little_work_is_done_by_the_plain_loop_bit_for_bit(monkeypatch):
    monkeypatch.setattr(engine, "_SMALL", 1e9)
    case = sample_case("conv")
    objective, points = objective_of(case), plane_around(flat(case.model))
    assert evaluate(Engine(objective), points) == [objective(v) for v in points.vectors()]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_known", {})
    return tmp_path / "cache"


def test_a_choice_is_measured_once_and_remembered(cache, monkeypatch):
    measured = []

    def measure():
        measured.append(None)
        return dataclasses.replace(CONFIGS[0], batch_size=10 * len(measured))

    assert tuning.remembered("a" * 32, measure).batch_size == 10
    assert tuning.remembered("a" * 32, measure).batch_size == 10
    monkeypatch.setattr(tuning, "_known", {})  # as in another process
    assert tuning.remembered("a" * 32, measure).batch_size == 10
    assert tuning.remembered("b" * 32, measure).batch_size == 20
    (file,) = cache.rglob("config-a*.json")
    file.write_text("{}")
    monkeypatch.setattr(tuning, "_known", {})
    assert tuning.remembered("a" * 32, measure).batch_size == 30


def test_a_cache_that_cannot_be_used_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tuning, "_known", {})
    assert tuning.remembered("c" * 32, lambda: CONFIGS[2]) == CONFIGS[2]


def test_measuring_finds_a_choice_that_works(cache):
    case = sample_case("conv", count=120)
    for points in (plane_around(flat(case.model)), Rows(plane_around(flat(case.model)).vectors())):
        assert_equal_to_the_plain_loop(objective_of(case), points)
    assert len(list(cache.rglob("config-*.json"))) == 2


def test_a_trial_of_some_batches_stands_for_all_of_them(monkeypatch):
    def evaluate(self, points, config, samples, watch=None):
        if watch is not None:
            watch(0.002 * len(points))  # each batch

    monkeypatch.setattr(FastEvaluator, "evaluate", evaluate)
    case = sample_case("conv", count=60)
    fast = Engine(objective_of(case))
    config = EngineConfig(batch_size=5, threads=2, first_layer_group=1, group_size=8)
    tuner = Autotuner(fast._evaluator, fast._fast)
    # 60 samples are 6 times 2 batches of 5.
    seconds = tuner._seconds(plane_around(flat(case.model), count=30), config)
    assert seconds == pytest.approx(6 * 0.002)


@pytest.mark.parametrize("quicker", [True, False])
def test_where_points_take_twice_as_long_threads_are_measured_again(monkeypatch, quicker):
    """As where another program came to keep the cores busy."""
    given = EngineConfig(
        batch_size=20, threads=2, first_layer_group=1, group_size=4, point_seconds=1e-9
    )
    measured, kept = [], []

    def trial(self, points, config):
        measured.append(config.threads)
        return 0.5 if (config.threads == 1) == quicker else 1.0

    monkeypatch.setattr(Autotuner, "_trial", trial)
    case = sample_case("conv", count=60)
    objective = objective_of(case)
    points = plane_around(flat(case.model), count=12)
    fast = Engine(objective, lambda key, measure: given, lambda key, config: kept.append(config))
    found = [each.loss for each in evaluate(fast, points)]
    np.testing.assert_allclose(found, [objective(v).loss for v in points.vectors()], rtol=1e-5)
    assert sorted(measured[:4]) == [1, 1, 2, 2]
    assert kept[0].threads == (1 if quicker else 2)
    assert kept[0].point_seconds > 1e-6  # as long as it took: not measured again at every group
    assert any("from here on, as points took" in note for note in fast.notes) == quicker


def test_the_plain_loop_is_chosen_where_it_is_quicker(cache, monkeypatch):
    monkeypatch.setattr(Autotuner, "_plain_seconds", lambda self, points: 1e-9)
    case = sample_case("conv", count=120)
    objective = objective_of(case)
    points = plane_around(flat(case.model))
    for _ in range(2):  # the second remembers
        fast = Engine(objective)
        (evaluated, *_) = list(fast.evaluate(points, 1000))
        assert evaluated == [(0, objective(points.vectors()[0]))]
        assert fast.notes == ["points on a plane or line: the plain loop, as it was the quickest"]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="directions"):
        Affine(np.zeros(3), np.zeros((2, 4)), np.zeros((5, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Affine(np.zeros(3), np.zeros((2, 3)), np.zeros((5, 2)))


class Heavy(nn.Linear):
    """Needs more memory than there is for more than two samples at a time."""

    def forward(self, x):
        return heavy(super().forward(x))


def heavy(outputs):
    if has_torch_function((outputs,)):
        return torch.overrides.handle_torch_function(heavy, (outputs,), outputs)
    if torch._C._functorch.is_batchedtensor(outputs) or len(outputs) > Heavy.limit:
        raise torch.cuda.OutOfMemoryError("no more memory")
    return outputs * 2.0


@pytest.mark.parametrize("form", ["plane", "separate"])
def test_where_memory_runs_out_less_is_done_at_a_time(monkeypatch, form):
    model = Heavy(3, 2)
    inputs, targets = torch.randn(40, 3), torch.randint(2, (40,))
    Heavy.limit = 100
    objective = Objective(model, inputs, targets, F.cross_entropy)
    points = plane_around(flat(model))
    points = points if form == "plane" else Rows(points.vectors())
    given = EngineConfig(batch_size=20, threads=1, first_layer_group=2, group_size=4, vmap_size=4)
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: given)
    fast = Engine(objective)
    monkeypatch.setattr(Verifier, "checked", lambda self, points, config: (config, None, True))
    expected = [objective(vector).loss for vector in points.vectors()]
    objective.data.batch_size = 10  # of the plain loop
    for samples in (40, 20):
        fast._fast.plan(range(samples), points.changing(objective.layout))
    Heavy.limit = 10
    found = [each.loss for each in evaluate(fast, points)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    halved = [note for note in fast.notes if note.startswith("halved")]
    assert ["2 points in one call" in note for note in halved] == [True, False, False]
    assert "batches of 10 " in halved[-1]
    Heavy.limit = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        evaluate(fast, points)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", ["mlp", "conv", "attention", "lstm", "tied"])
@pytest.mark.parametrize("form", ["plane", "separate"])
def test_on_a_gpu(monkeypatch, kind, form):
    case = sample_case(kind)
    objective = Objective(case.model.cuda(), case.inputs, case.targets, case.loss_fn)
    points = plane_around(flat(case.model.cpu()))
    case.model.cuda()
    points = points if form == "plane" else Rows(points.vectors())
    fast = Engine(objective)
    found = evaluate(fast, points)
    for evaluation, vector in zip(found, points.vectors(), strict=True):
        assert evaluation.loss == pytest.approx(objective(vector).loss, rel=1e-5)
