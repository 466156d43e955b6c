"""Runs of what other libraries save: bit for bit their parameters, and losses as they are."""

import copy
import logging
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from library_runs import assert_imported_is_recorded
from test_transformers_models import WORDS, gpt2, t5
from torch import nn

from losspath import Objective, Trajectory, import_checkpoints
from losspath.errors import ArgumentError
from losspath.surface import evaluate_states

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
peft = pytest.importorskip("peft", reason="peft is a test dependency")
transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
lightning = pytest.importorskip("lightning.pytorch", reason="lightning is a test dependency")

from losspath.lightning import RecorderCallback as LightningRecorder  # noqa: E402
from losspath.transformers import RecorderCallback as TrainerRecorder  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory':UserWarning"),
]

COUNT = 12
SENTENCES = torch.randint(1, WORDS, (COUNT, 6), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def lora(model):
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], modules_to_save=["ln_f"])
    return peft.get_peft_model(model, config)


def dora(model):
    return peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["c_attn"], use_dora=True)
    )


def rows_of(model):
    return [p for p in model.parameters() if p.requires_grad]


def vector_of(model):
    return torch.cat([p.detach().reshape(-1) for p in rows_of(model)]).numpy()


def own_loss(model, batch):
    return model(input_ids=batch, labels=batch).loss


class Keep(transformers.TrainerCallback):
    """Copies the model where the trainer saves it."""

    def __init__(self):
        self.models = {}

    def on_save(self, args, state, control, model=None, **rest):
        self.models[state.global_step] = copy.deepcopy(model)


def trained_by_trainer(model, folder, **options):
    """The models where the Trainer saves them; every step is recorded beside the folder."""
    kept, recorder = Keep(), TrainerRecorder(folder.parent / "recorded")
    data = [{"input_ids": words, "labels": words} for words in SENTENCES]
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=3,
        max_steps=9,
        save_steps=3,
        logging_steps=1,
        learning_rate=0.01,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[kept, recorder])
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    return kept.models, trainer.state.log_history


def assert_same(path, models):
    """What was imported is what the models are, and so are their losses."""
    assert path.steps.tolist() == sorted(models)
    own = next(iter(models.values()))
    named = dict(own.named_parameters())
    assert {e.name for e in path.layout.parameters} <= set(named)
    batches = [SENTENCES[:7], SENTENCES[7:]]
    objective = Objective.of_batches(copy.deepcopy(own), batches, own_loss)
    found = evaluate_states(path, objective, np.arange(len(path))).loss
    for index, step in enumerate(path.steps.tolist()):
        model = models[step].eval()
        values = dict(model.named_parameters())
        for entry in path.layout.parameters:
            row = path[index][entry.place]
            assert row.tobytes() == values[entry.name].detach().float().numpy().tobytes()
        with torch.no_grad():
            losses = [(float(own_loss(model, batch)), batch.shape[0]) for batch in batches]
        mean = sum(loss * count for loss, count in losses) / COUNT
        assert found[index] == pytest.approx(mean, rel=1e-5)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("make", [gpt2, t5])
def test_a_trainers_checkpoints(make, tmp_path):
    models, log = trained_by_trainer(
        make(), tmp_path / "out", gradient_accumulation_steps=2, save_only_model=True
    )
    path = import_checkpoints(tmp_path / "out", tmp_path / "run")
    assert_same(path, models)
    recorded = Trajectory(tmp_path / "recorded")
    assert_imported_is_recorded(path, recorded)
    losses = {row["step"]: row["loss"] for row in log if "loss" in row}
    assert path.loss_steps.tolist() == [4, 5, 6, 7, 8, 9]
    assert path.all_losses.tolist() == [losses[step] for step in path.loss_steps.tolist()]
    assert {"learning_rate", "grad_norm"} <= set(path.values)
    tied = import_checkpoints(tmp_path / "out", tmp_path / "with", model=make())
    assert [row.tobytes() for row in tied[:]] == [
        vector_of(models[step]).tobytes() for step in (3, 6, 9)
    ]
    assert_imported_is_recorded(tied, recorded)
    assert tied.layout == recorded.layout


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("adapt", [lora, dora])
def test_an_adapters_checkpoints(adapt, tmp_path):
    models, _ = trained_by_trainer(adapt(gpt2()), tmp_path / "out")
    path = import_checkpoints(tmp_path / "out", tmp_path / "run")
    trained = {n for n, p in models[3].named_parameters() if p.requires_grad}
    assert {entry.name for entry in path.layout.parameters} == trained
    assert_same(path, models)
    recorded = Trajectory(tmp_path / "recorded")
    base = {n for n, p in models[3].named_parameters() if not p.requires_grad}
    assert_imported_is_recorded(path, recorded, without=base)
    whole = import_checkpoints(tmp_path / "out", tmp_path / "with", model=adapt(gpt2()))
    assert [row.tobytes() for row in whole[:]] == [
        vector_of(models[step]).tobytes() for step in (3, 6, 9)
    ]


def test_merged_adapters(tmp_path):
    models, _ = trained_by_trainer(lora(gpt2()), tmp_path / "out")
    merged = {}
    for step, model in models.items():
        merged[step] = copy.deepcopy(model).merge_and_unload()
        merged[step].save_pretrained(tmp_path / "merged" / f"step-{step}")
    path = import_checkpoints(tmp_path / "merged", tmp_path / "run")
    # Most of the network is frozen, and is kept once beside the path.
    names = [entry.name for entry in path.layout.parameters]
    assert names
    assert all("c_attn.weight" in name or "ln_f" in name for name in names)
    assert_same(path, merged)
    # Of the recorded adapters, merged by the library as those were.
    recorded, model = Trajectory(tmp_path / "recorded"), lora(gpt2())
    for index, step in enumerate(path.steps.tolist()):
        recorded.load_into(model, step)
        again = copy.deepcopy(model).merge_and_unload().state_dict()
        for entry in path.layout.parameters:
            row = path[index][entry.place]
            assert row.tobytes() == again[entry.name].numpy().tobytes()


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(64) % 3


def trained_by_lightning(folder, *extra):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kept = {}

    class Copy(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            kept[trainer.global_step] = copy.deepcopy(
                {n: t.clone() for n, t in module.state_dict().items()}
            )

    saving = lightning.callbacks.ModelCheckpoint(
        folder / "saved", save_top_k=-1, every_n_train_steps=4
    )
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        logger=lightning.loggers.CSVLogger(folder / "logs"),
        callbacks=[Copy(), saving, LightningRecorder(folder / "recorded"), *extra],
    )
    data = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    trainer.fit(Module(), torch.utils.data.DataLoader(data, 8))
    return kept


def assert_is_lightnings(path, kept):
    for index, step in enumerate(path.steps.tolist()):
        for entry in path.layout.parameters:
            row = path[index][entry.place]
            assert row.tobytes() == kept[step][entry.name].numpy().tobytes()
        for name, value in path.buffers(index).items():
            assert value.tobytes() == kept[step][name].numpy().tobytes()


def test_lightnings_checkpoints(tmp_path):
    kept = trained_by_lightning(tmp_path)
    (table,) = (tmp_path / "logs").rglob("metrics.csv")
    path = import_checkpoints(tmp_path / "saved" / "*.ckpt", tmp_path / "run", losses=table)
    assert path.steps.tolist() == [4, 8, 12, 16]
    assert_is_lightnings(path, kept)
    assert_imported_is_recorded(path, Trajectory(tmp_path / "recorded"))
    assert len(path.all_losses) > 4
    objective = Objective(Module(), INPUTS, TARGETS, F.cross_entropy)
    found = evaluate_states(path, objective, np.arange(4)).loss
    for index, step in enumerate(path.steps.tolist()):
        module = Module()
        module.load_state_dict(kept[step])
        with torch.no_grad():
            expected = float(F.cross_entropy(module.eval()(INPUTS), TARGETS))
        assert found[index] == pytest.approx(expected, rel=1e-5)
    inner = import_checkpoints(
        tmp_path / "saved" / "*.ckpt", tmp_path / "inner", prefix="net.", model=Module().net
    )
    assert [row.tobytes() for row in inner[:]] == [row.tobytes() for row in path[:]]


def test_lightnings_averages_are_taken_when_asked_for_alone(tmp_path):
    kept = trained_by_lightning(tmp_path, lightning.callbacks.EMAWeightAveraging(decay=0.9))
    pattern = tmp_path / "saved" / "*.ckpt"
    with pytest.raises(ArgumentError, match="two sets of weights"):
        import_checkpoints(pattern, tmp_path / "run")
    assert_is_lightnings(import_checkpoints(pattern, tmp_path / "raw", weights="raw"), kept)
    averaged = import_checkpoints(pattern, tmp_path / "averaged", weights="averaged")
    for index, step in enumerate(averaged.steps.tolist()):
        rows = torch.cat([kept[step][e.name].reshape(-1) for e in averaged.layout.parameters])
        assert 0 < np.abs(averaged[index] - rows.numpy()).max() < 0.2
