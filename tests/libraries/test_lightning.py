"""The callback of Lightning: every optimiser step, and nothing else, whatever a Trainer does."""

import copy
import logging
import math
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath
from losspath import Trajectory
from losspath.errors import ArgumentError, ExistsError, LosspathWarning, ModelError

L = pytest.importorskip("lightning.pytorch", reason="lightning is a test dependency")

from lightning.pytorch.callbacks import (  # noqa: E402
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402

from losspath.lightning import RecorderCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

COUNT, WIDTH = 40, 3


@pytest.fixture(autouse=True)
def _quiet():
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def flat(module):
    """A copy of a module's parameters, in order."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy().copy()


class Watched(torch.optim.SGD):
    """An optimiser that copies the parameters after each of its steps."""

    def __init__(self, parameters, module, **options):
        super().__init__(parameters, **options)
        self.watched = [module]

    def step(self, closure=None):
        result = super().step(closure)
        self.watched[0].seen.append(flat(self.watched[0]))
        return result


def data(batch=4, dtype=torch.float32):
    inputs = torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets = (inputs.sum(1) > 0).long()
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, targets), batch_size=batch
    )


class Net(L.LightningModule):
    """A small classifier with dropout and normalisation."""

    def __init__(self, **optimizer):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Dropout(0.2))
        self.head = nn.Linear(6, 2)
        self.options = {"lr": 0.1, "momentum": 0.9, **optimizer}
        self.seen, self.losses = [], []

    def forward(self, x):
        return self.head(self.body(x).relu())

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def on_train_start(self):
        self.seen.append(flat(self))

    def configure_optimizers(self):
        return Watched(self.parameters(), self, **self.options)


def trainer(tmp_path, *callbacks, **options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | options
    return L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def fitted(tmp_path, module, *callbacks, loader=None, recorder=None, ckpt_path=None, **options):
    """Trains a module; its run, and the trainer."""
    torch.manual_seed(3)
    used = [*callbacks]
    if not any(isinstance(each, RecorderCallback) for each in used):
        used.append(RecorderCallback(tmp_path / "run", **(recorder or {})))
    fit = trainer(tmp_path, *used, **options)
    fit.fit(module, loader or data(), ckpt_path=ckpt_path)
    return Trajectory(tmp_path / "run"), fit


def assert_states(path, seen):
    """Bit for bit what was seen at each step, in a run that was closed and has nothing to tell."""
    assert path.closed
    assert path.notes == []
    np.testing.assert_array_equal(path[:], np.stack(seen))


def test_every_step_with_its_loss_bit_for_bit(tmp_path):
    module = Net()
    path, fit = fitted(tmp_path, module, max_epochs=2, recorder={"metadata": {"seed": 3}})
    assert_states(path, module.seen)
    assert path.steps.tolist() == list(range(21))
    assert fit.global_step == 20
    np.testing.assert_array_equal(path.all_losses, np.array(module.losses))
    assert all(len(values) == 1 for _, values in path.settings.values())
    names = {entry.name for entry in path.layout.parameters}
    assert names == {name for name, _ in Net().named_parameters()}
    assert path.metadata == {
        "library": "lightning",
        "library_version": L.__version__,
        "model_class": f"{Net.__module__}.Net",
        "seed": 3,
    }
    steps, rates = path.values["lr"]
    assert steps.tolist() == list(range(1, 21))
    assert set(rates) == {0.1}
    steps, logged = path.values["train_loss"]
    assert steps.tolist() == list(range(1, 21))
    np.testing.assert_array_equal(logged, np.array(module.losses))
    steps, means = path.values["train_loss_epoch"]  # logged as the epoch ends, so with step 11
    assert steps.tolist() == [11]
    assert means[0] == pytest.approx(np.mean(module.losses[:10]), rel=1e-6)
    module.load_state_dict(module.state_dict())
    assert path.buffers(0)["body.1.num_batches_tracked"] == 0
    assert path.buffers(20)["body.1.num_batches_tracked"] == 20


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}], ids=["plain", "accum"])
def test_training_is_the_same_without_it(tmp_path, options):
    ends = []
    for callbacks in ([], [RecorderCallback(tmp_path / "run")]):
        module = Net()
        torch.manual_seed(3)
        fit = trainer(tmp_path, *callbacks, max_epochs=2, **options)
        fit.fit(module, data(), data())
        optimizer = fit.optimizers[0]
        assert not optimizer._optimizer_step_post_hooks
        assert not optimizer._optimizer_step_pre_hooks
        ends.append([*module.state_dict().values(), *optimizer.state_dict()["state"][0].values()])
        ends[-1].append(torch.rand(3))  # as many random numbers were drawn
    for without, recorded in zip(*ends, strict=True):
        assert torch.equal(without, recorded)


def test_accumulation_is_one_step_with_the_mean_loss(tmp_path):
    module = Net()
    path, fit = fitted(tmp_path, module, accumulate_grad_batches=4, max_epochs=2)
    assert fit.global_step == 6  # of 4, 4 and 2 batches, twice
    assert_states(path, module.seen)
    losses = np.array(module.losses)
    parts = [losses[a:b] for a, b in [(0, 4), (4, 8), (8, 10), (10, 14), (14, 18), (18, 20)]]
    np.testing.assert_allclose(path.all_losses, [part.mean() for part in parts], rtol=1e-6)


def test_a_step_that_calls_that_of_its_base_class_is_one(tmp_path):
    torch.optim.SGD([nn.Parameter(torch.ones(1))])  # since then hooks run in the base's step too
    assert torch.optim.SGD.step.hooked
    module = Net()
    path, fit = fitted(tmp_path, module)
    assert_states(path, module.seen)
    assert path.steps[-1] == fit.global_step == 10


class GAN(L.LightningModule):
    """Two optimisers that take turns; the discriminator steps twice at even batches."""

    def __init__(self, closures=False, at_once=False):
        super().__init__()
        torch.manual_seed(0)
        self.generator, self.discriminator = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 1)
        self.automatic_optimization = False
        self.closures, self.at_once = closures, at_once
        self.seen, self.losses, self.who = [flat(self)], [], []

    def loss(self, of, real):
        fake = self.generator(torch.ones(len(real), 2))
        if of == 0:
            return F.softplus(-self.discriminator(fake)).mean()
        return (self.discriminator(fake.detach()) - self.discriminator(real)).exp().mean()

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        if self.at_once:
            for optimizer in optimizers:
                optimizer.zero_grad()
            both = [self.loss(0, batch[0]), self.loss(1, batch[0])]
            for loss in both:
                self.manual_backward(loss)
            for index, optimizer in enumerate(optimizers):
                optimizer.step()
                self.losses.append(sum(loss.item() for loss in both))
                self.who.append(index)
            return
        for index in (1, 1, 0) if batch_idx % 2 == 0 else (1, 0):
            self.turn(index, optimizers[index], batch[0])
        self.log("real", batch[0].mean())

    def turn(self, index, optimizer, real):
        def closure():
            optimizer.zero_grad()
            loss = self.loss(index, real)
            self.losses.append(loss.item())
            self.manual_backward(loss)

        self.who.append(index)
        if self.closures:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()

    def configure_optimizers(self):
        return [
            Watched(self.generator.parameters(), self, lr=0.1),
            Watched(self.discriminator.parameters(), self, lr=0.3),
        ]


@pytest.mark.parametrize("kind", [{}, {"closures": True}, {"at_once": True}], ids=str)
def test_manual_optimisation_has_a_state_for_each_step_of_each_optimiser(tmp_path, kind):
    module = GAN(**kind)
    path, fit = fitted(tmp_path, module)
    assert_states(path, module.seen)
    assert path.steps[-1] == fit.global_step == (20 if kind.get("at_once") else 25)
    np.testing.assert_allclose(path.all_losses, module.losses, rtol=1e-6)
    assert path.values["optimizer"][1].tolist() == module.who
    generators = np.flatnonzero(np.array(module.who) == 0) + 1
    assert path.values["lr/0"][0].tolist() == generators.tolist()
    assert set(path.values["lr/1"][1]) == {0.3}
    if not kind.get("at_once"):  # logged after a batch's steps, so kept with the next one's first
        assert path.values["real"][0].tolist()[:2] == [4, 6]


def test_a_loss_that_never_went_through_lightning_is_nan(tmp_path):
    class Own(GAN):
        def manual_backward(self, loss):
            loss.backward()

    module = Own()
    path, _ = fitted(tmp_path, module)
    assert_states(path, module.seen)
    assert np.isnan(path.all_losses).all()


def test_lbfgs_has_the_loss_that_its_step_began_with(tmp_path):
    class Quasi(Net):
        firsts = ()

        def configure_optimizers(self):
            self.body[2].p = 0.0
            return torch.optim.LBFGS(self.parameters(), max_iter=4, line_search_fn="strong_wolfe")

        def on_train_batch_start(self, batch, batch_idx):
            self.firsts = (*self.firsts, len(self.losses))

        def on_train_batch_end(self, *rest):
            self.seen.append(flat(self))

    module = Quasi()
    path, fit = fitted(tmp_path, module)
    assert len(module.losses) > 20
    assert fit.global_step == 10
    assert_states(path, module.seen)
    np.testing.assert_array_equal(path.all_losses, [module.losses[i] for i in module.firsts])


class Overflowing(Net):
    """Its gradient overflows at some batches."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx in (0, 3, 4):
            loss = loss + (loss - loss.detach()) * 1e38
        return loss


@pytest.mark.parametrize("every", [1, 2])
def test_steps_that_mixed_precision_skips_are_steps_without_a_change(tmp_path, every):
    module = Overflowing()
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))
    path, fit = fitted(tmp_path, module, plugins=[precision], recorder={"every": every})
    assert fit.global_step == 10 == path.steps[-1]
    assert path.unchanged_steps == 3
    assert len(module.seen) == 8
    seen = [module.seen[i] for i in (0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7)]
    np.testing.assert_array_equal(path[:], np.stack(seen[::every]))
    np.testing.assert_allclose(path.all_losses, module.losses, rtol=1e-3)


class OverflowingGAN(GAN):
    """Some of its steps overflow, alone and one after the other, and the last."""

    def loss(self, of, real):
        loss = super().loss(of, real)
        if len(self.losses) in (0, 2, 4, 5, 24):
            loss = loss + (loss - loss.detach()) * 1e38
        return loss


@pytest.mark.parametrize("closures", [False, True])
def test_skipped_steps_of_several_optimisers_have_their_own_losses(tmp_path, closures):
    module = OverflowingGAN(closures=closures)
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))
    path, fit = fitted(tmp_path, module, plugins=[precision])
    assert fit.global_step == 25
    assert path.steps.tolist() == list(range(26))
    assert path.unchanged_steps == 5
    same = (path[1:] == path[:-1]).all(axis=1)
    assert np.flatnonzero(same).tolist() == [0, 2, 4, 5, 24]
    np.testing.assert_array_equal(path[:][[0, *(np.flatnonzero(~same) + 1)]], np.stack(module.seen))
    np.testing.assert_allclose(path.all_losses, module.losses, rtol=1e-6)


def test_a_training_step_that_returns_nothing_is_a_step_without_a_loss(tmp_path):
    class Skipping(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 4 else loss

    path, fit = fitted(tmp_path, Skipping())
    assert fit.global_step == 10 == path.steps[-1]
    assert np.flatnonzero(np.isnan(path.all_losses)).tolist() == [4]


def averages():
    return {
        "ema": lambda: EMAWeightAveraging(decay=0.5),
        "mean": lambda: WeightAveraging(),
        "swa": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1),
    }


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("kind", averages())
def test_averages_never_get_into_the_path(tmp_path, kind, is_first, every):
    module = Net()
    recorder = RecorderCallback(tmp_path / "run", every=every)
    average = averages()[kind]()
    order = [recorder, average] if is_first else [average, recorder]
    torch.manual_seed(3)
    fit = trainer(tmp_path, *order, max_epochs=3, val_check_interval=3)
    fit.fit(module, data(), data())
    assert len(module.seen) >= 31
    seen = module.seen[:31]  # the pass for SWA's statistics ends with an optimiser step of its own
    assert not np.array_equal(flat(module), seen[-1])  # the average is in it by now
    path = Trajectory(tmp_path / "run")
    assert path.closed
    assert path.steps.tolist() == sorted({*range(0, 31, every), 30})
    np.testing.assert_array_equal(path[:], np.stack([seen[step] for step in path.steps]))
    assert len(path.all_losses) == 30
    np.testing.assert_array_equal(path.all_losses, np.array(module.losses[:30]))
    assert path.buffers(len(path) - 1)["body.1.num_batches_tracked"] == 30


def test_large_frozen_parameters_are_not_taken_from_the_average(tmp_path):
    module = Net()
    module.frozen = nn.Linear(1200, 1000).requires_grad_(False)
    frozen = module.frozen.weight.clone()
    path, _ = fitted(tmp_path, module, EMAWeightAveraging(decay=0.3), max_epochs=2)
    assert path.closed
    for index in (0, len(path) - 1):
        assert torch.equal(path.sides(index)["frozen.weight"], frozen)


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["every", "schedule"])
def test_the_last_of_large_states_is_not_the_average(tmp_path, left_out):
    recorder = {"every": {"every": 4}, "schedule": {"schedule": lambda step, loss: step % 4 == 0}}
    module = Net()  # rows of more than 16 MiB are not copied at every step
    module.wide = nn.Linear(2100, 2100)
    module.register_parameter("scale", nn.Parameter(torch.ones(1)))
    forward = module.forward
    module.forward = lambda x: forward(x) + module.wide(x[:, :1].expand(-1, 2100)).mean()
    average = EMAWeightAveraging(decay=0.5)
    path, _ = fitted(tmp_path, module, average, recorder=recorder[left_out])
    assert path.closed
    assert path.steps.tolist() == [0, 4, 8, 10]
    np.testing.assert_array_equal(path[-1], module.seen[10])


def checkpointed(tmp_path, module, *callbacks, **options):
    saving = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=4, save_top_k=-1)
    used = [*callbacks, saving, *options.pop("callbacks", [])]
    path, _ = fitted(tmp_path, module, *used, enable_checkpointing=True, **options)
    files = sorted((tmp_path / "saved").glob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns)
    return path, {int(p.stem.split("step=")[1].partition("-")[0]): p for p in files}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_that_goes_on_from_a_checkpoint(tmp_path, every, accumulate):
    options = {"max_epochs": 2 * accumulate, "accumulate_grad_batches": accumulate}
    first = Net()
    before, saved = checkpointed(tmp_path, first, recorder={"every": every}, **options)
    assert_states(before, first.seen[::every])
    second = Net()
    callback = RecorderCallback(tmp_path / "run", every=every)  # "error" is for step 0
    with pytest.warns(LosspathWarning, match="aside"):
        path, fit = fitted(tmp_path, second, callback, ckpt_path=saved[12], **options)
    assert fit.global_step == 20
    seen = [*first.seen[:13], *second.seen[1:]]
    assert_states(path, seen[::every])
    assert path.steps.tolist() == list(range(0, 21, every))
    aside = Trajectory(tmp_path / "run" / "aside-1")
    np.testing.assert_array_equal(aside[-1], first.seen[20])


@pytest.mark.parametrize("every", [1, 3])
def test_what_a_checkpoint_needs_is_durable_before_it_is_written(tmp_path, every):
    class Copying(L.Callback):
        """Leaves what a kill would leave as the checkpoint is written."""

        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            shutil.copytree(tmp_path / "run", tmp_path / f"killed-{trainer.global_step}")

    first, second = Net(), Net()
    recorder = RecorderCallback(tmp_path / "run", every=every)
    _, saved = checkpointed(tmp_path, first, recorder, callbacks=[Copying()])
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "killed-8").rename(tmp_path / "run")
    assert not Trajectory(tmp_path / "run").closed
    recorder = RecorderCallback(tmp_path / "run", every=every)
    path, _ = fitted(tmp_path, second, recorder, ckpt_path=saved[8])
    seen = [*first.seen[:9], *second.seen[1:]]
    assert path.steps.tolist() == sorted({*range(0, 11, every), 10})
    assert_states(path, [seen[step] for step in path.steps])


def test_a_gan_goes_on_from_a_checkpoint(tmp_path):
    first, second = GAN(at_once=True), GAN(at_once=True)
    _, saved = checkpointed(tmp_path, first)
    with pytest.warns(LosspathWarning, match="aside"):
        path, _ = fitted(tmp_path, second, ckpt_path=saved[12])
    assert_states(path, [*first.seen[:13], *second.seen[1:]])


def test_averages_go_on_from_a_checkpoint(tmp_path):
    first, second = Net(), Net()
    saving = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=12, save_top_k=-1)
    fitted(tmp_path, first, saving, EMAWeightAveraging(), max_epochs=2, enable_checkpointing=True)
    (saved,) = (tmp_path / "saved").glob("*.ckpt")
    ema = EMAWeightAveraging()
    with pytest.warns(LosspathWarning, match="aside"):
        path, _ = fitted(tmp_path, second, ema, ckpt_path=saved, max_epochs=2)
    assert_states(path, [*first.seen[:13], *second.seen[1:]])


def test_a_run_that_begins_at_a_checkpoint_counts_from_it_and_goes_on(tmp_path):
    first, second, third = Net(), Net(), Net()
    _, saved = checkpointed(tmp_path, first, max_epochs=2)
    (tmp_path / "run").rename(tmp_path / "before")
    path, saved = checkpointed(tmp_path, second, ckpt_path=saved[12], max_epochs=2)
    assert path.steps.tolist() == list(range(12, 21))
    assert_states(path, second.seen)
    with pytest.warns(LosspathWarning, match="aside"):
        path, _ = fitted(tmp_path, third, ckpt_path=saved[16], max_epochs=2)
    assert path.steps[0] == 12
    assert_states(path, [*second.seen[:5], *third.seen[1:]])


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path):
    module = Net()
    _, fit = fitted(tmp_path, module)
    fit.fit_loop.max_epochs = 2
    fit.fit(module, data())
    path = Trajectory(tmp_path / "run")
    del module.seen[11]  # told once more as training began again
    assert_states(path, module.seen)
    assert len(path) == 21


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path):
    module = Net()
    fitted(tmp_path, module)
    with pytest.raises(ExistsError, match="not empty"):
        fitted(tmp_path, Net())
    path, _ = fitted(tmp_path, Net(), recorder={"existing": "overwrite"})
    assert_states(path, module.seen)
    with pytest.warns(LosspathWarning, match="aside"):  # begun anew, in the same state
        path, _ = fitted(tmp_path, Net(), recorder={"existing": "resume"})
    assert_states(path, module.seen)
    other = Net()
    nn.init.ones_(other.head.bias)
    with pytest.raises(ModelError, match="not in the state"):
        fitted(tmp_path, other, recorder={"existing": "resume"})
    assert len(Trajectory(tmp_path / "run")) == 11


class Failing(Net):
    """Fails at a batch of training or of validation."""

    def __init__(self, where, at):
        super().__init__()
        self.where, self.at = where, at

    def training_step(self, batch, batch_idx):
        if self.where == "training" and batch_idx == self.at:
            raise RuntimeError("as told")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        if self.where == "validation" and batch_idx == self.at:
            raise RuntimeError("as told")


@pytest.mark.parametrize("where", ["training", "validation"])
@pytest.mark.parametrize("every", [1, 4])
def test_an_error_closes_the_run_with_the_state_of_training(tmp_path, where, every):
    module = Failing(where, 3)
    callback = RecorderCallback(tmp_path / "run", every=every)
    fit = trainer(tmp_path, EMAWeightAveraging(decay=0.5), callback, val_check_interval=5)
    with pytest.raises(RuntimeError, match="as told"):
        fit.fit(module, data(), data())
    assert not fit.optimizers[0]._optimizer_step_post_hooks
    path = Trajectory(tmp_path / "run")
    assert path.closed
    last = 3 if where == "training" else 5
    assert path.steps.tolist() == sorted({*range(0, last + 1, every), last})
    np.testing.assert_array_equal(path[-1], module.seen[last])


def test_training_that_failed_before_its_first_step_is_begun_again(tmp_path):
    callback = RecorderCallback(tmp_path / "run")
    with pytest.raises(RuntimeError, match="as told"):
        fitted(tmp_path, Failing("training", 0), callback)
    assert len(Trajectory(tmp_path / "run")) == 1
    module = Net()
    path, _ = fitted(tmp_path, module, callback)
    assert_states(path, module.seen)
    with pytest.raises(ExistsError):  # of a run with steps nothing goes
        fitted(tmp_path, Net(), callback)


def test_another_process_than_the_first_records_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(L.Trainer, "is_global_zero", property(lambda self: False))
    module = Net()
    trainer(tmp_path, RecorderCallback(tmp_path / "run")).fit(module, data())
    assert len(module.seen) == 11
    assert not (tmp_path / "run").exists()


def test_a_compiled_module_is_recorded_under_its_own_names(tmp_path):
    class Plain(Net):  # torch.compile cannot do with self.log
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    module = Plain()
    torch.manual_seed(3)
    fit = trainer(tmp_path, RecorderCallback(tmp_path / "run"))
    fit.fit(torch.compile(module, backend="eager"), data())
    assert_states(Trajectory(tmp_path / "run"), module.seen)
    assert [e.name for e in Trajectory(tmp_path / "run").layout.parameters] == [
        name for name, _ in Net().named_parameters()
    ]


def test_a_submodule_compiled_in_place(tmp_path):
    module = Net()
    module.body.compile(backend="eager")
    module.head = torch.compile(module.head, backend="eager")
    path, _ = fitted(tmp_path, module)
    assert_states(path, module.seen)
    assert {e.name for e in path.layout.parameters} == {n for n, _ in Net().named_parameters()}


def test_groups_with_rates_of_their_own_and_a_schedule(tmp_path):
    class Grouped(Net):
        def configure_optimizers(self):
            groups = [
                {"params": self.body.parameters()},
                {"params": [self.head.weight], "lr": 0.01},
                {"params": [self.head.bias]},
            ]
            optimizer = Watched(groups, self, lr=0.1)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    path, _ = fitted(tmp_path, Grouped())
    rates = [0.1] * 4 + [0.05] * 4 + [0.025] * 2
    np.testing.assert_allclose(path.values["lr"][1], rates)
    np.testing.assert_allclose(path.values["lr/group1"][1], np.array(rates) / 10)
    assert "lr/group2" not in path.values


def test_what_is_logged_has_names_that_a_run_takes(tmp_path):
    class Logging(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log_dict({"loss": 1.0, "step": 2.0, "self": 3.0, ".hidden": 4.0, "a b/c": 5.0})
            if batch_idx % 3 == 0:
                self.log("sometimes", float(batch_idx))
            return loss

        def on_before_optimizer_step(self, optimizer):
            self.log("norm", torch.tensor(7.0))

    path, _ = fitted(tmp_path, Logging())
    for name, value in [
        ("logged_loss", 1),
        ("logged_step", 2),
        ("logged_self", 3),
        ("logged_hidden", 4),
        ("a b/c", 5),
        ("norm", 7),
    ]:
        steps, values = path.values[name]
        assert steps.tolist() == list(range(1, 11))
        assert set(values) == {value}
    assert path.values["sometimes"][0].tolist() == [1, 4, 7, 10]
    assert path.values["sometimes"][1].tolist() == [0, 3, 6, 9]


def test_options_are_those_of_the_recorder(tmp_path):
    module = Net().double()
    module.body[0].requires_grad_(False)
    loader = data(dtype=torch.float64)
    options = {"dtype": "float64", "parameters": "all", "every": 3}
    path, _ = fitted(tmp_path, module, loader=loader, recorder=options)
    assert path.dtype == np.float64
    assert path.steps.tolist() == [0, 3, 6, 9, 10]
    assert path.parameter_count == sum(p.numel() for p in module.parameters())
    np.testing.assert_array_equal(path[:], np.stack([module.seen[s] for s in path.steps]))
    with pytest.raises(ArgumentError, match="every"):
        RecorderCallback(tmp_path / "other", every=0)
    with pytest.raises(ArgumentError, match="existing"):
        RecorderCallback(tmp_path / "other", existing="sometimes")
    with pytest.raises(TypeError, match="evry"):
        RecorderCallback(tmp_path / "other", evry=2)
    assert not (tmp_path / "other").exists()


def test_a_copy_has_the_settings_alone(tmp_path):
    copies = []

    class Copying(L.Callback):
        def on_train_batch_end(self, trainer, *rest):
            mine = next(c for c in trainer.callbacks if isinstance(c, RecorderCallback))
            copies.append(copy.deepcopy(mine))
            copies.append(pickle.loads(pickle.dumps(mine)))
            assert mine.state_dict() == {}
            assert mine.state_key == "RecorderCallback"

    module = Net()
    path, _ = fitted(tmp_path, module, Copying())
    assert_states(path, module.seen)
    for each in copies[-2:]:
        with pytest.raises(ExistsError):
            fitted(tmp_path, Net(), each)


def test_the_trainer_of_the_older_name(tmp_path):
    older = pytest.importorskip("pytorch_lightning")

    class Older(older.LightningModule):
        __init__ = Net.__init__
        training_step, on_train_start = Net.training_step, Net.on_train_start
        forward, configure_optimizers = Net.forward, Net.configure_optimizers

    Older.__init__ = lambda self: (
        older.LightningModule.__init__(self),
        self.__dict__.update(seen=[], losses=[], options={"lr": 0.1}),
        setattr(self, "body", Net().body),
        setattr(self, "head", Net().head),
    )[0]
    module = Older()
    fit = older.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RecorderCallback(tmp_path / "run")],
    )
    fit.fit(module, data())
    path = Trajectory(tmp_path / "run")
    assert_states(path, module.seen)
    np.testing.assert_array_equal(path.all_losses, np.array(module.losses))


def test_a_sharded_module_is_refused_before_it_trains(tmp_path):
    module = Net()
    module.empty = nn.Parameter(torch.empty(0))
    module.empty.ds_id = 3
    with pytest.raises(ModelError, match=r"empty is empty, as by DeepSpeed.*ZeRO stage 2"):
        fitted(tmp_path, module)
    sharded = type("FullyShardedDataParallel", (nn.Module,), {"__module__": "torch.distributed"})
    module = Net()
    wrapper = sharded()
    wrapper._fsdp_wrapped_module = module.head
    module.head = wrapper
    with pytest.raises(ModelError, match=r"Linear is in a FullyShardedDataParallel.*DDP"):
        fitted(tmp_path, module)
    assert not (tmp_path / "run").exists()


def test_the_state_before_the_first_step_is_that_of_the_last_hook(tmp_path):
    class Late(Net):
        def on_train_epoch_start(self):
            nn.init.constant_(self.head.bias, 0.25)

    path, _ = fitted(tmp_path, Late())
    assert path[0][-2:].tolist() == [0.25, 0.25]


def test_validation_is_kept_with_the_step_after_it(tmp_path):
    module = Net()
    torch.manual_seed(3)
    fit = trainer(tmp_path, RecorderCallback(tmp_path / "run"), val_check_interval=4)
    fit.fit(module, data(), data())
    path = Trajectory(tmp_path / "run")
    assert path.values["val_loss"][0].tolist() == [5, 9]
    assert all(math.isfinite(value) for value in path.values["val_loss"][1])


def test_a_run_that_cannot_be_closed_does_not_hide_the_error(tmp_path, monkeypatch):
    from losspath.recording.recorder import Recorder

    def close(self):
        from losspath.errors import StoreError

        raise StoreError("the disk is full")

    module = Failing("training", 3)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", LosspathWarning)
        patch.setattr(Recorder, "close", close)
        with pytest.raises(RuntimeError, match="as told"):
            fitted(tmp_path, module)


class Ranked(Net):
    """Writes down what the first process sees."""

    def on_train_end(self):
        if self.global_rank == 0:
            np.save(self.where, np.stack(self.seen))
            np.save(str(self.where) + ".losses", np.array(self.losses))


@pytest.mark.slow
def test_of_two_processes_the_first_records(tmp_path):
    module = Ranked()
    module.where = str(tmp_path / "seen")
    fit = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RecorderCallback(tmp_path / "run")],
    )
    fit.fit(module, data())
    path = Trajectory(tmp_path / "run")
    assert_states(path, np.load(tmp_path / "seen.npy"))
    assert len(path) == 6  # half of the batches each
    np.testing.assert_array_equal(path.all_losses, np.load(tmp_path / "seen.losses.npy"))
    assert {e.name for e in path.layout.parameters} == {n for n, _ in Net().named_parameters()}


class Plain(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(WIDTH, 2)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_modules_own_step_can_be_the_loss_of_a_surface(tmp_path):
    trainer(tmp_path, RecorderCallback(tmp_path / "run")).fit(Plain(), data())
    path, batches = Trajectory(tmp_path / "run"), list(data())
    own, plain = (
        losspath.compute_surface(
            path, losspath.Objective.of_batches(Plain(), batches, loss), resolution=5
        )
        for loss in (
            lambda module, batch: module.training_step(batch, 0),
            lambda module, batch: F.cross_entropy(module.layer(batch[0]), batch[1]),
        )
    )
    np.testing.assert_allclose(own.loss, plain.loss, rtol=1e-6)
    assert np.ptp(own.loss) > 0
