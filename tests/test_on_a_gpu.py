"""Models on a GPU: recorded and evaluated as a plain loop there does it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, Recorder, Trajectory, compute_surface, fit_plane
from losspath.evaluation.execution import engine, tuning
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Rows
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.surface import evaluate_states
from random_modules import LAYERS, Problem, content, rows_of, states_around

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning"),
]

# There, words that occur twice in a batch are renormed twice at a time: random, and refused.
KINDS = [(form, name) for form in LAYERS for name in LAYERS[form] if name != "renormed words"]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Without TF32, whose products have three digits; and the engine is always used."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(engine, "_SMALL", 0)
    config = EngineConfig(batch_size=7, threads=1, first_layer_group=3, group_size=4)
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: config)


def close(value):
    return pytest.approx(value, rel=5e-5, abs=2e-6)


def one(form, name):
    return Problem(form, ((name, False),), "entropy", "by kind", 23, 9, 0, False, True)


def written(model, vector):
    """The model with a vector written into its parameters."""
    model.train()  # as some merge what they have as they go into evaluation mode
    done = 0
    for parameter in rows_of(model):
        values = torch.as_tensor(vector[done : done + parameter.numel()])
        parameter.data.copy_(values.view(parameter.shape))
        done += parameter.numel()
    return model


def plain_loss(model, x, y):
    device = next(model.parameters()).device
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(x.clone().to(device)), y.to(device)))


def on_gpu(problem):
    """A model that runs there, and its data."""
    model, (x, y) = problem.model().cuda(), problem.data()
    try:
        plain_loss(problem.model().cuda(), x, y)
    except RuntimeError as error:
        pytest.skip(f"the layer itself does not run there: {error}")
    return model, x, y


@pytest.mark.parametrize(("form", "name"), KINDS)
@pytest.mark.parametrize("data_on", ["cpu", "cuda"])
def test_layers(form, name, data_on):
    problem = one(form, name)
    model, x, y = on_gpu(problem)
    states = states_around(problem.model(), 0)
    plain = [plain_loss(written(problem.model().cuda(), each), x, y) for each in states]
    x, y = x.to(data_on), y.to(data_on)
    before, random = content(model, x, y), torch.cuda.get_rng_state().tolist()
    objective = Objective(model, x, y, F.cross_entropy, batch_size=9)
    assert [objective(state).loss for state in states] == [close(value) for value in plain]
    fast = Engine(objective)
    found = [each.loss for part in fast.evaluate(Rows(states)) for _, each in part]
    assert found == [close(value) for value in plain], fast.notes
    plane = fit_plane(states)
    drawn = compute_surface(states, objective, "pca", 3, plane=plane, states=2)
    for i, j in ((0, 2), (1, 1)):
        vector = (plane.origin + plane.basis @ [drawn.x[j], drawn.y[i]]).astype(np.float32)
        assert drawn.loss[i, j] == close(plain_loss(written(problem.model().cuda(), vector), x, y))
    assert content(model, x, y) == before
    assert torch.cuda.get_rng_state().tolist() == random


@pytest.mark.parametrize(("form", "name"), KINDS)
def test_recorded_runs(form, name, tmp_path):
    problem = one(form, name)
    model, x, y = on_gpu(problem)
    x, y = x.cuda(), y.cuda()
    model.train()
    optimizer = torch.optim.SGD(rows_of(model), 0.05, momentum=0.5)
    rows, buffers, losses = [], [], []

    def keep():
        rows.append(torch.cat([p.detach().reshape(-1) for p in rows_of(model)]).cpu().numpy())
        buffers.append({n: b.detach().cpu().clone() for n, b in model.named_buffers()})
        training = {m: m.training for m in model.modules()}
        random = torch.cuda.get_rng_state()
        losses.append(plain_loss(model, x, y))
        torch.cuda.set_rng_state(random)
        for module, mode in training.items():
            module.training = mode

    with Recorder(tmp_path / "run", model) as recorder:
        keep()
        for _ in range(4):
            try:
                loss = F.cross_entropy(model(x.clone()), y)
                optimizer.zero_grad()
                loss.backward()
            except RuntimeError as error:
                pytest.skip(f"the layer cannot be trained there: {error}")
            optimizer.step()
            recorder.record(loss)
            keep()
    path = Trajectory(tmp_path / "run")
    assert [path[k].tobytes() for k in range(5)] == [row.tobytes() for row in rows]
    for k, kept in enumerate(buffers):
        for key, value in path.buffers(k).items():
            assert value.tobytes() == kept[key].numpy().tobytes()
    if name in ("counting", "merging", "remembering"):
        return  # what evaluation leaves behind is part of what comes next
    objective = Objective(model, x, y, F.cross_entropy)
    found = evaluate_states(path, objective, np.arange(5)).loss
    assert found.tolist() == [close(value) for value in losses]


class Halves(nn.Module):
    """A model whose first half is on the CPU and whose second is not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.second = nn.Linear(8, 3).cuda()

    def forward(self, x):
        return self.second(self.first(x).cuda()).cpu()


def test_a_model_on_two_devices(tmp_path):
    torch.manual_seed(0)
    model = Halves()
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    rows = []

    def row():
        return torch.cat([p.detach().cpu().reshape(-1) for p in model.parameters()]).numpy()

    with Recorder(tmp_path / "run", model) as recorder:
        rows.append(row())
        for _ in range(5):
            loss = F.cross_entropy(model(x), y)
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            recorder.record(loss)
            rows.append(row())
    path = Trajectory(tmp_path / "run")
    assert [path[k].tobytes() for k in range(6)] == [each.tobytes() for each in rows]
    objective = Objective(model, x, y, F.cross_entropy)
    assert objective(path[5]).loss == close(plain_loss(model, x, y))
    drawn = compute_surface(path, objective, "pca", 5)
    assert np.isfinite(drawn.loss).all()


def test_mixed_precision_with_skipped_steps(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).cuda()
    x, y = torch.randn(20, 6).cuda(), torch.randint(3, (20,)).cuda()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**20)
    with Recorder(tmp_path / "run", model) as recorder:
        for _ in range(16):
            with torch.autocast("cuda", torch.float16):
                loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            recorder.record(loss)
        assert recorder.unchanged_steps > 0
    path = Trajectory(tmp_path / "run")
    same = sum(path[k].tobytes() == path[k + 1].tobytes() for k in range(16))
    assert same == recorder.unchanged_steps
    objective = Objective(model, x, y, F.cross_entropy)
    surface = compute_surface(path, objective, "pca", 5)
    assert np.isfinite(surface.loss).all()
    assert evaluate_states(path, objective, np.array([16])).loss[0] == close(
        plain_loss(model, x, y)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_evaluated_in_float32(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).cuda()
    x, y = torch.randn(20, 1, 8, 8), torch.randint(3, (20,))
    model.to(dtype)
    vector = torch.cat([p.detach().float().reshape(-1) for p in model.parameters()]).cpu().numpy()
    objective = Objective(model, x, y, F.cross_entropy)
    wide = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).cuda()
    assert objective(vector).loss == close(plain_loss(written(wide, vector), x, y))


def test_recalibrated_statistics(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    x, y = torch.randn(20, 1, 8, 8), torch.randint(3, (20,))
    vector = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    found = [
        Objective(model.to(device), x, y, F.cross_entropy, buffers="recalibrated")(vector).loss
        for device in ("cpu", "cuda")
    ]
    assert found[1] == close(found[0])


def normalised():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(144, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
    )


@pytest.mark.parametrize("method", ["averaged", "sampled"])
def test_points_of_their_own_buffers(method, tmp_path):
    torch.manual_seed(0)
    model = normalised().cuda()
    x, y = torch.randn(20, 1, 8, 8).cuda(), torch.randint(3, (20,)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(tmp_path / "run", model) as recorder:
        for _ in range(6):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    path = Trajectory(tmp_path / "run")
    surface = compute_surface(path, Objective(model, x, y, F.cross_entropy), method, 5, states=2)
    assert "the plain loop" not in " ".join(surface.provenance["evaluation"])
    # The processor's plain arithmetic, on a copy: the same points, the same buffers.
    apart = normalised()
    there = Objective(apart, x.cpu(), y.cpu(), F.cross_entropy)
    expected = compute_surface(path, there, method, 5, states=2)
    np.testing.assert_allclose(surface.loss, expected.loss, rtol=1e-4)


def loss_of_batch(model, batch):
    inputs, targets = (each.to(next(model.parameters()).device) for each in batch)
    return F.cross_entropy(model(inputs), targets)


@pytest.mark.parametrize("data_on", ["cpu", "cuda"])
@pytest.mark.parametrize("is_flat", [True, False])
def test_given_batches(data_on, is_flat, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).cuda()
    x, y = torch.randn(20, 1, 8, 8).to(data_on), torch.randint(3, (20,)).to(data_on)
    batches = [(x[k : k + 6], y[k : k + 6]) for k in range(0, 20, 6)]
    objective = Objective.of_batches(model, batches, loss_of_batch)
    states = states_around(model.cpu(), 0)
    model.cuda()
    surface = compute_surface(states, objective, "pca" if is_flat else "averaged", 5, states=2)
    assert "the plain loop" not in " ".join(surface.provenance["evaluation"])
    whole = Objective(model, x, y, F.cross_entropy)
    expected = compute_surface(states, whole, "pca" if is_flat else "averaged", 5, states=2)
    np.testing.assert_allclose(surface.loss, expected.loss, rtol=1e-4)


class Normed(nn.Module):
    """Large enough that its copies are under way while training goes on."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(400, 2000), nn.BatchNorm1d(2000), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(2000, 400), nn.BatchNorm1d(400), nn.Linear(400, 3))
        self.register_buffer("on_cpu", torch.zeros(3))

    def forward(self, x):
        return self.second(self.first(x))

    def _apply(self, function, recurse=True):
        moved = super()._apply(function, recurse)
        self.on_cpu = self.on_cpu.cpu()
        return moved


@pytest.mark.parametrize("options", [{}, {"every": 3}, {"dtype": "bfloat16"}, {"sketch": 1000}])
def test_recording_waits_for_nothing_and_keeps_each_state(options, tmp_path):
    torch.manual_seed(0)
    model = Normed().cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, y = torch.randn(256, 400, device="cuda"), torch.randint(3, (256,), device="cuda")
    states, sides, losses = [], [], []

    def keep():
        states.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
        sides.append({name: buffer.clone() for name, buffer in model.named_buffers()})

    with Recorder(tmp_path / "run", model, **options) as recorder:
        keep()
        for step in range(60):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.on_cpu += 1.0
            # Nothing waits once memory is there and what modules hold has been looked through.
            torch.cuda.set_sync_debug_mode("error" if step > 3 else "default")
            try:
                recorder.record(loss, double=2 * loss, number=step)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            losses.append(loss.detach().clone())
            loss.detach().zero_()
            keep()
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == list(range(0, 61, options.get("every", 1)))
    for place, step in enumerate(path.steps.tolist()):
        wanted = states[step].cpu()
        if "sketch" in options:
            assert path[place].tolist() == path.sketch.project(wanted.numpy()).tolist()
            continue
        wanted = wanted.bfloat16().float() if path.is_rounded else wanted
        assert path[place].tobytes() == wanted.numpy().tobytes()
        for name, tensor in path.sides(place).items():
            assert torch.equal(tensor, sides[step][name].cpu()), (step, name)
    assert path.all_losses.tolist() == [float(loss) for loss in losses]
    assert path.values["double"][1].tolist() == [float(2 * loss) for loss in losses]
    assert path.values["number"][1].tolist() == list(map(float, range(60)))
    # A sketch has the same bytes wherever it is made, so that recording goes on elsewhere.
    own = {name: value for name, value in options.items() if name != "every"}
    if not options.get("every"):
        Recorder(tmp_path / "run", model.cpu(), existing="resume", **own).close()
