"""The callback of transformers: every optimiser step, and nothing else, whatever a Trainer does."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Trajectory
from losspath.errors import ArgumentError, ExistsError, LosspathWarning, ModelError, StoreError
from losspath.recording.recorder import Recorder

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
pytest.importorskip("accelerate", reason="accelerate is a test dependency")

from losspath.transformers import RecorderCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("error::losspath.errors.LosspathWarning"),
]

COUNT, WIDTH = 40, 3


@pytest.fixture(autouse=True)
def _quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def opened(directory):
    """A run that goes on, as soon as its writer has come to its first state."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return Trajectory(directory)
        except StoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def flat(module):
    """A copy of a module's trainable parameters, in order."""
    parts = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    return torch.cat(parts).numpy().copy()


class Watched(torch.optim.SGD):
    """An optimiser that copies the parameters after each of its steps."""

    def __init__(self, model, **options):
        super().__init__(
            [p for p in model.parameters() if p.requires_grad],
            **{"lr": 0.1, "momentum": 0.9, **options},
        )
        self.model, self.seen = [model], [flat(model)]

    def step(self, closure=None):
        result = super().step(closure)
        self.seen.append(flat(self.model[0]))
        return result


class Net(nn.Module):
    """A small classifier with dropout and normalisation, that gives its own loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Dropout(0.2))
        self.head = nn.Linear(6, 2)

    def forward(self, x, labels=None):
        scores = self.head(self.body(x).relu())
        return {"loss": F.cross_entropy(scores, labels), "logits": scores}


def data():
    inputs = torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(1))
    return [{"x": x, "labels": (x.sum() > 0).long()} for x in inputs]


class Silent(transformers.Trainer):
    """A Trainer that shows no bar, and keeps the losses that it followed."""

    def __init__(self, *args, **options):
        self.kept = []
        super().__init__(*args, **options)
        for noisy in (transformers.PrinterCallback, transformers.ProgressCallback):
            self.remove_callback(noisy)

    def compute_loss(self, *args, **options):
        loss = super().compute_loss(*args, **options)
        if self.model.training:
            self.kept.append((loss[0] if isinstance(loss, tuple) else loss).item())
        return loss


def trained(
    tmp_path, model, *callbacks, recorder=None, kind=Silent, rows=None, optimizer=None, **options
):
    """A Trainer, ready to train, and its optimiser."""
    used = [*callbacks]
    if not any(isinstance(each, RecorderCallback) for each in used):
        used.append(RecorderCallback(tmp_path / "run", **(recorder or {})))
    resume = options.pop("resume", None)
    settings = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        "dataloader_pin_memory": False,
        "logging_steps": 2,
        **options,
    }
    arguments = transformers.TrainingArguments(str(tmp_path / "out"), **settings)
    optimizer = optimizer or Watched(model)
    trainer = kind(
        model,
        arguments,
        train_dataset=rows or data(),
        eval_dataset=(rows or data())[:8],
        callbacks=used,
        optimizers=(optimizer, None),
    )
    return trainer, optimizer, resume


def fitted(tmp_path, model, *callbacks, **options):
    """Trains a model; its run, the Trainer and what was seen."""
    trainer, optimizer, resume = trained(tmp_path, model, *callbacks, **options)
    trainer.train(resume_from_checkpoint=resume)
    return Trajectory(tmp_path / "run"), trainer, optimizer.seen


def assert_states(path, seen):
    """Bit for bit what was seen at each step, in a run that was closed and has nothing to tell."""
    assert path.closed
    assert path.notes == []
    np.testing.assert_array_equal(path[:], np.stack(seen))


def assert_untouched(trainer):
    assert not {"training_step", "_run_epoch", "_get_grad_norm"} & vars(trainer).keys()


def test_every_step_with_its_loss_bit_for_bit(tmp_path):
    model = Net()
    path, trainer, seen = fitted(
        tmp_path, model, num_train_epochs=2, recorder={"metadata": {"seed": 3}}
    )
    assert_states(path, seen)
    assert_untouched(trainer)
    assert trainer.state.global_step == 20
    assert path.steps.tolist() == list(range(21))
    np.testing.assert_array_equal(path.all_losses, np.array(trainer.kept))
    assert [e.name for e in path.layout.parameters] == [n for n, _ in Net().named_parameters()]
    assert path.metadata == {
        "library": "transformers",
        "library_version": transformers.__version__,
        "model_class": f"{Net.__module__}.Net",
        "seed": 3,
    }
    steps, rates = path.values["lr"]
    assert steps.tolist() == list(range(1, 21))
    np.testing.assert_allclose(rates, 0.1 * (1 - np.arange(20) / 20))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps, norms = path.values["grad_norm"]
    assert steps.tolist() == list(range(1, 21))
    logged = {entry["step"]: entry["grad_norm"] for entry in history}
    np.testing.assert_allclose([norms[step - 1] for step in logged], list(logged.values()))
    steps, means = path.values["logged_loss"]  # kept with the step after the one they are of
    assert steps.tolist() == list(range(3, 21, 2))
    np.testing.assert_allclose(means, [entry["loss"] for entry in history[:-1]])
    assert path.values["epoch"][1].tolist() == [entry["epoch"] for entry in history[:-1]]
    assert path.buffers(20)["body.1.num_batches_tracked"] == 20


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_is_the_same_without_it(tmp_path, accumulate):
    ends = []
    for number in range(2):
        model = Net()
        trainer, optimizer, _ = trained(
            tmp_path / str(number), model, gradient_accumulation_steps=accumulate, eval_steps=2
        )
        if number == 0:
            trainer.remove_callback(RecorderCallback)
        trainer.train()
        ends.append([*model.state_dict().values(), *optimizer.state_dict()["state"][0].values()])
        ends[-1].append(torch.rand(3))  # as many random numbers were drawn
        ends[-1].append(torch.tensor([e["loss"] for e in trainer.state.log_history[:-1]]))
    for without, recorded in zip(*ends, strict=True):
        assert torch.equal(without, recorded)


def test_accumulation_is_one_step_with_the_mean_loss(tmp_path):
    path, trainer, seen = fitted(tmp_path, Net(), gradient_accumulation_steps=4, num_train_epochs=2)
    assert trainer.state.global_step == 6  # of 4, 4 and 2 batches, twice
    assert_states(path, seen)
    losses = np.array(trainer.kept)
    parts = [losses[a:b] for a, b in [(0, 4), (4, 8), (8, 10), (10, 14), (14, 18), (18, 20)]]
    np.testing.assert_allclose(path.all_losses, [part.mean() for part in parts], rtol=1e-6)


def gpt2(**options):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=8, n_embd=16, n_layer=2, n_head=2, **options
    )
    return transformers.GPT2LMHeadModel(config)


def words(count=12):
    found = torch.randint(1, 30, (count, 6), generator=torch.Generator().manual_seed(3))
    rows = [{"input_ids": w, "labels": w.clone()} for w in found]
    rows[2]["labels"][:4] = -100  # so that micro-batches do not weigh the same
    return rows


def test_accumulated_tokens_weigh_the_same(tmp_path):
    model = gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    rows = words()
    path, _, seen = fitted(
        tmp_path,
        model,
        rows=rows,
        gradient_accumulation_steps=3,
        per_device_train_batch_size=2,
        optimizer=Watched(model, lr=0.0),
        train_sampling_strategy="sequential",
    )
    assert_states_but_for(path, seen, "no parameter changed")
    wholes = []  # the sum over a step's words by how many labels it has, as the Trainer takes it
    for part in (rows[:6], rows[6:]):
        labels = torch.stack([row["labels"] for row in part])
        with torch.no_grad():
            scores = model(input_ids=torch.stack([row["input_ids"] for row in part])).logits
        losses = F.cross_entropy(scores[:, :-1].mT, labels[:, 1:], reduction="sum")
        wholes.append(losses.item() / (labels >= 0).sum().item())
    np.testing.assert_allclose(path.all_losses, wholes, rtol=1e-5)


def assert_states_but_for(path, seen, note):
    assert path.closed
    assert all(note in each for each in path.notes)
    np.testing.assert_array_equal(path[:], np.stack(seen))


def test_a_loss_of_ones_own(tmp_path):
    class Weighted(Silent):
        def compute_loss(self, model, inputs, return_outputs=False, **options):
            loss = 3 * F.cross_entropy(model(**inputs)["logits"], inputs["labels"])
            self.kept.append(loss.item())
            return loss

    path, trainer, seen = fitted(tmp_path, Net(), kind=Weighted)
    assert_states(path, seen)
    np.testing.assert_array_equal(path.all_losses, np.array(trainer.kept))


def test_a_training_step_of_ones_own(tmp_path):
    class Twice(Silent):
        def training_step(self, model, inputs, num_items_in_batch=None):
            return super().training_step(model, inputs, num_items_in_batch) * 2

    trainer, optimizer, _ = trained(tmp_path, Net(), kind=Twice)
    before = trainer.training_step
    trainer.train()
    assert trainer.training_step == before
    path = Trajectory(tmp_path / "run")
    assert_states(path, optimizer.seen)
    np.testing.assert_allclose(path.all_losses, np.array(trainer.kept) * 2, rtol=1e-6)


def test_a_method_that_was_put_on_the_trainer_is_put_back(tmp_path):
    trainer, optimizer, _ = trained(tmp_path, Net())
    calls, inner = [], trainer.training_step

    def own(*args):
        calls.append(1)
        return inner(*args)

    trainer.training_step = own
    trainer.train()
    assert trainer.training_step is own
    assert len(calls) == 10
    assert_states(Trajectory(tmp_path / "run"), optimizer.seen)


@pytest.mark.parametrize("every", [1, 2])
def test_steps_that_mixed_precision_skips_are_steps_without_a_change(tmp_path, every):
    class Overflowing(Silent):
        def compute_loss(self, *args, **options):
            loss = super().compute_loss(*args, **options)
            if len(self.kept) in (1, 4, 5):
                loss = loss + (loss - loss.detach()) * 1e38
            return loss

    trainer, optimizer, _ = trained(
        tmp_path, Net(), kind=Overflowing, recorder={"every": every}, max_grad_norm=0.0
    )
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    trainer.train()
    path = Trajectory(tmp_path / "run")
    assert trainer.state.global_step == 10 == path.steps[-1]
    assert path.unchanged_steps == 3
    assert len(optimizer.seen) == 8
    seen = [optimizer.seen[i] for i in (0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7)]
    np.testing.assert_array_equal(path[:], np.stack(seen[::every]))
    np.testing.assert_allclose(path.all_losses, trainer.kept, rtol=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_the_best_model_that_is_loaded_at_the_end_is_not_in_the_path(tmp_path, every):
    class Worse(Silent):
        """By evaluation the first model is the best."""

        def evaluate(self, *args, **options):
            metrics = super().evaluate(*args, **options) | {"eval_own": self.state.global_step}
            return metrics

    path, trainer, seen = fitted(
        tmp_path,
        Net(),
        kind=Worse,
        recorder={"every": every},
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=5,
        save_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model="eval_own",
        greater_is_better=False,
    )
    assert np.array_equal(flat(trainer.model), seen[5])
    assert path.steps.tolist() == sorted({*range(0, 11, every), 10})
    assert_states(path, [seen[step] for step in path.steps])
    assert path.values["eval_loss"][0].tolist() == [6]


@pytest.mark.parametrize("is_first", [True, False])
def test_averages_that_are_swapped_in_are_not_in_the_path(tmp_path, is_first):
    class Average(transformers.TrainerCallback):
        """Puts the average into the model after each step, and the model back before the next."""

        mean, held = None, None

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if self.held is not None:
                nn.utils.vector_to_parameters(self.held, model.parameters())

        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.held = nn.utils.parameters_to_vector(model.parameters()).detach()
            self.mean = self.held if self.mean is None else (self.mean + self.held) / 2
            nn.utils.vector_to_parameters(self.mean.clone(), model.parameters())

    recorder = RecorderCallback(tmp_path / "run")
    order = [recorder, Average()] if is_first else [Average(), recorder]
    path, trainer, seen = fitted(tmp_path, Net(), *order)
    assert not np.array_equal(flat(trainer.model), seen[-1])
    assert_states(path, seen)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_that_goes_on_from_a_checkpoint(tmp_path, every, accumulate):
    options = {
        "num_train_epochs": 2 * accumulate,
        "gradient_accumulation_steps": accumulate,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    path, _, first = fitted(tmp_path, Net(), recorder={"every": every}, **options)
    assert_states(path, first[::every])
    saved = str(tmp_path / "out" / "checkpoint-12")
    callback = RecorderCallback(tmp_path / "run", every=every)  # "error" is for step 0
    with pytest.warns(LosspathWarning, match="aside"):
        path, trainer, second = fitted(tmp_path, Net(), callback, resume=saved, **options)
    assert trainer.state.global_step == 20
    seen = [*first[:13], *second[1:]]
    assert_states(path, seen[::every])
    assert path.steps.tolist() == list(range(0, 21, every))
    np.testing.assert_array_equal(path[:], np.stack(first[::every]))  # as a Trainer resumes exactly
    aside = Trajectory(tmp_path / "run" / "aside-1")
    np.testing.assert_array_equal(aside[-1], first[20])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("strategy", [{"save_strategy": "steps", "save_steps": 5}, {}])
def test_what_a_checkpoint_needs_is_durable_before_it_is_written(tmp_path, every, strategy):
    class Killed(Silent):
        """Leaves what a kill would leave as the checkpoint is written."""

        def _save_checkpoint(self, *args, **options):
            shutil.copytree(tmp_path / "run", tmp_path / f"killed-{self.state.global_step}")
            super()._save_checkpoint(*args, **options)

    options = {"num_train_epochs": 2, "save_strategy": "epoch", **strategy}
    recorder = {"every": every}
    _, _, first = fitted(tmp_path, Net(), kind=Killed, recorder=recorder, **options)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "killed-10").rename(tmp_path / "run")
    assert not Trajectory(tmp_path / "run").closed
    saved = str(tmp_path / "out" / "checkpoint-10")
    path, _, second = fitted(tmp_path, Net(), resume=saved, recorder=recorder, **options)
    seen = [*first[:11], *second[1:]]
    assert path.steps.tolist() == sorted({*range(0, 21, every), 20})
    assert_states(path, [seen[step] for step in path.steps])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("existing", ["error", "resume", "overwrite"])
def test_a_run_that_begins_at_a_checkpoint_counts_from_it(existing, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4}
    fitted(tmp_path, Net(), **options)
    options["recorder"] = {"existing": existing}
    (tmp_path / "run").rename(tmp_path / "before")
    saved = str(tmp_path / "out" / "checkpoint-4")
    path, _, seen = fitted(tmp_path, Net(), resume=saved, **options)
    assert path.steps.tolist() == list(range(4, 11))
    np.testing.assert_array_equal(path[1:], np.stack(seen[1:]))
    saved = str(tmp_path / "out" / "checkpoint-8")
    with pytest.warns(LosspathWarning, match="aside"):
        path, _, second = fitted(tmp_path, Net(), resume=saved, **options)
    np.testing.assert_array_equal(path[:], np.stack([path[0], *seen[1:5], *second[1:]]))
    (tmp_path / "run").rename(tmp_path / "run2")
    early = RecorderCallback(tmp_path / "run2", existing="resume")
    with pytest.raises(StoreError, match="expected a step that was recorded"):
        fitted(tmp_path, Net(), early)


@pytest.mark.slow
def test_what_is_there_is_kept_unless_told_otherwise(tmp_path):
    _, _, seen = fitted(tmp_path, Net())
    with pytest.raises(ExistsError, match="not empty"):
        fitted(tmp_path, Net())
    path, _, _ = fitted(tmp_path, Net(), recorder={"existing": "overwrite"})
    assert_states(path, seen)
    with pytest.warns(LosspathWarning, match="aside"):  # begun anew, in the same state
        path, _, _ = fitted(tmp_path, Net(), recorder={"existing": "resume"})
    assert_states(path, seen)


class Failing(Silent):
    """Fails at a step: in the forward pass, or anywhere else in an epoch."""

    where = "compute_loss"

    def compute_loss(self, *args, **options):
        if self.where == "compute_loss" and len(self.kept) == 3:
            raise RuntimeError("as told")
        return super().compute_loss(*args, **options)

    def evaluate(self, *args, **options):
        raise RuntimeError("as told")


class FailingEvaluation(Failing):
    where = "evaluate"


@pytest.mark.parametrize("kind", [Failing, FailingEvaluation])
@pytest.mark.parametrize("every", [1, 2])
def test_an_error_closes_the_run_and_lets_go_of_the_trainer(tmp_path, kind, every):
    trainer, optimizer, _ = trained(
        tmp_path,
        Net(),
        kind=kind,
        recorder={"every": every},
        eval_strategy="steps",
        eval_steps=5,
    )
    with pytest.raises(RuntimeError, match="as told"):
        trainer.train()
    assert_untouched(trainer)
    path = Trajectory(tmp_path / "run")
    assert path.closed
    last = 5 if kind is FailingEvaluation else 3
    assert path.steps.tolist() == sorted({*range(0, last + 1, every), last})
    np.testing.assert_array_equal(path[-1], optimizer.seen[last])


@pytest.mark.slow
def test_an_error_that_nobody_tells_of_is_made_good_by_close_or_by_the_next_training(tmp_path):
    class Stopping(transformers.TrainerCallback):
        is_on = True

        def on_train_end(self, args, state, control, **kwargs):
            if self.is_on:
                raise RuntimeError("as told")

    stopping, callback = Stopping(), RecorderCallback(tmp_path / "run", existing="overwrite")
    trainer, optimizer, _ = trained(tmp_path, Net(), stopping, callback)
    with pytest.raises(RuntimeError, match="as told"):
        trainer.train()
    assert not opened(tmp_path / "run").closed
    with pytest.raises(RuntimeError, match="as told"):
        trainer.train()
    callback.close()
    callback.close()
    assert_untouched(trainer)
    path = Trajectory(tmp_path / "run")
    assert_states(path, optimizer.seen[10:])


@pytest.mark.slow
def test_an_error_before_the_first_step_lets_training_begin_again(tmp_path):
    class Smaller(Silent):
        fails = True

        def compute_loss(self, *args, **options):
            if self.fails:
                self.fails = False
                raise RuntimeError("CUDA out of memory. as told")
            return super().compute_loss(*args, **options)

    options = {"rows": data() + data()[:2], "auto_find_batch_size": True}
    path, trainer, seen = fitted(tmp_path, Net(), kind=Smaller, **options)
    assert trainer.state.global_step == 14  # of 42 samples by three
    assert_states(path, seen)


def test_another_process_than_the_first_records_nothing(tmp_path):
    class Second(Silent):
        def is_world_process_zero(self):
            return False

    trainer, optimizer, _ = trained(tmp_path, Net(), kind=Second)
    trainer.train()
    assert len(optimizer.seen) == 11
    assert not (tmp_path / "run").exists()


def test_wrapped_models_are_recorded_under_their_own_names(tmp_path):
    class Wrapping(Silent):
        def _wrap_model(self, model, *args, **options):
            return nn.DataParallel(super()._wrap_model(model, *args, **options))

    names = [n for n, _ in Net().named_parameters()]
    path, trainer, seen = fitted(tmp_path, Net(), kind=Wrapping)
    assert isinstance(trainer.model_wrapped, nn.DataParallel)
    assert_states(path, seen)
    assert [e.name for e in path.layout.parameters] == names


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("how", ["in place", "wrapped", "by the Trainer"])
def test_compiled_models_are_recorded_under_their_own_names(tmp_path, how):
    class Taking(Net):
        def forward(self, x, labels=None, num_items_in_batch=None):
            return super().forward(x, labels)

    model, options = Taking(), {}
    if how == "in place":
        model.compile(backend="eager")
    elif how == "wrapped":
        model = torch.compile(model, backend="eager")
        options = {"remove_unused_columns": False}  # as by its signature it takes none
    else:
        options = {"torch_compile": True, "torch_compile_backend": "eager"}
    path, _, seen = fitted(tmp_path, model, **options)
    assert_states(path, seen)
    assert [e.name for e in path.layout.parameters] == [n for n, _ in Net().named_parameters()]
    assert path.metadata["model_class"].endswith(".Taking")


def test_the_rows_of_an_adapted_model_are_the_adapter(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is a test dependency")
    config = peft.LoraConfig(r=2, lora_alpha=4, lora_dropout=0.2, target_modules=["c_attn"])
    model = peft.get_peft_model(gpt2(), config)
    path, _, seen = fitted(tmp_path, model, rows=words(), gradient_accumulation_steps=2)
    assert_states(path, seen)
    names = [e.name for e in path.layout.parameters]
    assert names
    assert all("lora_" in name for name in names)
    assert set(path.side_kinds.values()) == {"frozen"}
    assert not np.isnan(path.all_losses).any()


@pytest.mark.slow
def test_decayed_groups_have_one_rate_until_they_differ(tmp_path):
    model = Net()
    groups = [{"params": model.body.parameters()}, {"params": model.head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    path, _, _ = fitted(tmp_path, model, optimizer=_seen(optimizer))
    assert {name for name in path.values if name.startswith("lr")} == {"lr"}
    model = Net()
    groups = [{"params": model.body.parameters()}, {"params": model.head.parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    path, _, _ = fitted(
        tmp_path, model, optimizer=_seen(optimizer), recorder={"existing": "overwrite"}
    )
    np.testing.assert_allclose(path.values["lr/group1"][1], 5 * path.values["lr"][1])


def _seen(optimizer):
    optimizer.seen = []
    return optimizer


def test_what_is_logged_has_names_that_a_run_takes(tmp_path):
    class Logging(Silent):
        def log(self, logs, *args):
            logs |= {"step": 1.0, "self": 2.0, ".hidden": 3, "text": "no", "many": [1, 2], "a b": 4}
            super().log(logs, *args)

    path, _, _ = fitted(tmp_path, Net(), kind=Logging)
    for name, value in [("logged_step", 1), ("logged_self", 2), ("logged_hidden", 3), ("a b", 4)]:
        steps, values = path.values[name]
        assert steps.tolist() == [3, 5, 7, 9]
        assert set(values) == {value}
    assert not {"text", "many", "learning_rate"} & path.values.keys()


def test_options_are_those_of_the_recorder(tmp_path):
    model = Net()
    model.body[0].requires_grad_(False)
    options = {"dtype": "float64", "parameters": "all", "every": 3}
    path, _, _ = fitted(tmp_path, model, recorder=options)
    assert path.dtype == np.float64
    assert path.steps.tolist() == [0, 3, 6, 9, 10]
    assert path.parameter_count == sum(p.numel() for p in model.parameters())
    with pytest.raises(ArgumentError, match="every"):
        RecorderCallback(tmp_path / "other", every=0)
    with pytest.raises(TypeError, match="evry"):
        RecorderCallback(tmp_path / "other", evry=2)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_copy_has_the_settings_alone(tmp_path):
    copies = []

    class Copying(transformers.TrainerCallback):
        def on_step_end(self, *args, **options):
            copies.append(copy.deepcopy(callback))
            copies.append(pickle.loads(pickle.dumps(callback)))

    callback = RecorderCallback(tmp_path / "run")
    path, _, seen = fitted(tmp_path, Net(), Copying(), callback)
    assert_states(path, seen)
    for each in copies[-2:]:
        with pytest.raises(ExistsError):
            fitted(tmp_path, Net(), each)


def test_without_a_trainer_states_are_recorded_and_losses_are_not_known(tmp_path):
    model = Net()
    optimizer = Watched(model)
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    callback = RecorderCallback(tmp_path / "run")
    told = {"model": model, "optimizer": optimizer}
    callback.on_train_begin(None, state, control, **told)
    for _ in range(3):
        callback.on_step_begin(None, state, control, **told)
        model(torch.randn(4, WIDTH), torch.tensor([0, 1, 0, 1]))["loss"].backward()
        optimizer.step()
        callback.on_optimizer_step(None, state, control, **told)
        state.global_step += 1
    callback.on_train_end(None, state, control, **told)
    path = Trajectory(tmp_path / "run")
    assert_states(path, optimizer.seen)
    assert np.isnan(path.all_losses).all()


def test_the_initial_state_is_that_before_the_first_step(tmp_path):
    class Late(transformers.TrainerCallback):
        def on_epoch_begin(self, args, state, control, model=None, **kwargs):
            nn.init.constant_(model.head.bias, 0.25)

    path, _, _ = fitted(tmp_path, Net(), RecorderCallback(tmp_path / "run"), Late())
    assert path[0][-2:].tolist() == [0.25, 0.25]


def test_a_model_that_deepspeed_has_emptied_is_refused_before_it_trains(tmp_path):
    model = Net()
    model.empty = nn.Parameter(torch.empty(0))
    model.empty.ds_tensor = torch.ones(2)
    with pytest.raises(ModelError, match=r"empty is empty, as by DeepSpeed.*ZeRO stage 2"):
        fitted(tmp_path, model)
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_closed_does_not_hide_the_error(tmp_path, monkeypatch):
    def close(self):
        raise StoreError("the disk is full")

    trainer, _, _ = trained(tmp_path, Net(), kind=Failing)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "close", close)
        with pytest.raises(RuntimeError, match="as told"):
            trainer.train()
    assert_untouched(trainer)


DISTRIBUTED = """
import os
import sys
import numpy as np
import torch
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_transformers_trainer import Net, trained

where = Path(sys.argv[2])
trainer, optimizer, _ = trained(where, Net(), ddp_backend="gloo")
trainer.train()
assert isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
if trainer.is_world_process_zero():
    np.savez(where / "seen.npz", seen=np.stack(optimizer.seen), losses=np.array(trainer.kept))
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads may abort Python's own end
"""


@pytest.mark.slow
def test_of_two_processes_the_first_records(tmp_path):
    (tmp_path / "program.py").write_text(DISTRIBUTED)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [str(tmp_path / "program.py"), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *launch, *program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path, seen = Trajectory(tmp_path / "run"), np.load(tmp_path / "seen.npz")
    assert_states(path, seen["seen"])
    assert len(path) == 6  # half of the batches each
    np.testing.assert_allclose(path.all_losses, seen["losses"], rtol=1e-6)
    assert [e.name for e in path.layout.parameters] == [n for n, _ in Net().named_parameters()]
