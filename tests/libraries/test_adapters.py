"""LoRA by the peft library: beside the weights, and merged into them."""

import copy
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from library_runs import assert_run_is_right, content, plain, trained, vector_of
from torch import nn

from losspath import (
    Objective,
    activations,
    architecture,
    compute_surface,
    confusion,
    measure_dynamics,
    saliency,
)
from losspath.errors import ModelError, ObjectiveError

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
peft = pytest.importorskip("peft", reason="peft is a test dependency")
transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]

WORDS, COUNT = 30, 12


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=8, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.2
    )
    return transformers.GPT2LMHeadModel(config)


def adapted():
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=4, lora_dropout=0.2, target_modules=["c_attn"])
    return peft.get_peft_model(gpt2(), config)


def batches():
    words = torch.randint(1, WORDS, (COUNT, 6), generator=torch.Generator().manual_seed(3))
    parts = [words[i : i + 7] for i in range(0, COUNT, 7)]
    return [
        {"input_ids": p, "attention_mask": torch.ones_like(p), "labels": p.clone()} for p in parts
    ]


BATCHES = batches()


def own_loss(model, batch):
    return model(**batch).loss


@pytest.mark.slow
def test_rows_are_the_adapter_alone_and_all_is_right(tmp_path):
    model = adapted()
    path, models = trained(tmp_path / "run", model, BATCHES, own_loss, rate=0.5)
    assert path.parameter_count == sum(p.numel() for p in model.parameters() if p.requires_grad)
    before = content(model)
    objective = Objective.of_batches(model, BATCHES, own_loss)
    assert_run_is_right(path, models, objective, BATCHES, own_loss)
    assert content(model) == before
    fresh = adapted()  # the same base, as seeded
    objective = Objective.of_batches(fresh, BATCHES, own_loss)
    assert objective(path[-1]).loss == pytest.approx(plain(models[-1], BATCHES, own_loss), rel=1e-5)


def lora(**options):
    return lambda: peft.LoraConfig(**{"target_modules": ["c_attn"], "r": 2, **options})


CONFIGS = {
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "ia3": lambda: peft.IA3Config(target_modules=["c_attn"], feedforward_modules=[]),
    "vera": lambda: peft.VeraConfig(target_modules=["c_attn"], r=2),
    "adalora": lambda: peft.AdaLoraConfig(
        target_modules=["c_attn"], init_r=4, target_r=2, total_step=20
    ),
    "norms": lambda: peft.LNTuningConfig(target_modules=["ln_1"]),
    "dora": lora(use_dora=True),
    "biases": lora(bias="lora_only"),
    "with the head": lora(modules_to_save=["lm_head"]),
    "embedding": lora(target_modules=["wte", "c_attn"]),
    "head": lora(target_modules=["lm_head"]),
    "pissa": lora(init_lora_weights="pissa"),
}


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("kind", CONFIGS)
def test_other_ways_to_adapt(kind, tmp_path):
    torch.manual_seed(0)
    model = peft.get_peft_model(gpt2(), CONFIGS[kind]())
    path, models = trained(tmp_path / "run", model, BATCHES, own_loss, steps=3, rate=0.5)
    before = content(model)
    objective = Objective.of_batches(model, BATCHES, own_loss)
    surface = compute_surface(path, objective, "pca", 3, states=3)
    expected = [plain(models[i], BATCHES, own_loss) for i in surface.states.index]
    np.testing.assert_allclose(surface.states.loss, expected, rtol=1e-5)
    assert expected[0] != expected[-1]
    assert content(model) == before


def test_another_base_is_that_of_the_run(tmp_path):
    """States are evaluated with the frozen weights that they were recorded with."""
    path, models = trained(tmp_path / "run", adapted(), BATCHES, own_loss, rate=0.5)
    torch.manual_seed(99)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"])
    other = peft.get_peft_model(gpt2(), config)
    surface = compute_surface(
        path, Objective.of_batches(other, BATCHES, own_loss), "pca", 3, states=3
    )
    expected = [plain(models[i], BATCHES, own_loss) for i in surface.states.index]
    np.testing.assert_allclose(surface.states.loss, expected, rtol=1e-5)


def test_a_merged_adapter_has_no_say_and_is_refused(tmp_path):
    model = adapted()
    path, models = trained(tmp_path / "run", model, BATCHES, own_loss, rate=0.5)
    objective = Objective.of_batches(model, BATCHES, own_loss)
    model.merge_adapter()
    with pytest.raises(ModelError, match="not merged when the objective was made"):
        objective(path[0])
    with pytest.raises(ObjectiveError, match="unmerge_adapter"):
        Objective.of_batches(model, BATCHES, own_loss)
    model.unmerge_adapter()
    for index in (0, len(models) - 1):  # merging back and forth rounds the weights
        expected = plain(models[index], BATCHES, own_loss)
        assert objective(path[index]).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_model_that_took_its_adapter_in_is_another_network(tmp_path):
    model = adapted()
    path, _ = trained(tmp_path / "run", model, BATCHES, own_loss)
    whole = copy.deepcopy(model).merge_and_unload()
    with pytest.raises(ModelError, match="not of the same network"):
        compute_surface(path, Objective.of_batches(whole, BATCHES, own_loss), "pca", 3)
    for parameter in whole.parameters():
        parameter.requires_grad_(True)
    path, models = trained(tmp_path / "whole", whole, BATCHES, own_loss)
    objective = Objective.of_batches(whole, BATCHES, own_loss)
    assert_run_is_right(path, models, objective, BATCHES, own_loss)
    assert np.isfinite(activations(path, objective, 2).edges).all()


@pytest.mark.parametrize("merged", [False, True])
def test_diagnose_an_adapted_classifier(merged, tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0"], modules_to_save=["2"])
    model = peft.get_peft_model(base, config)
    if merged:
        model = model.merge_and_unload().requires_grad_(True)
    x = torch.randn(40, 4)
    y = x[:, :3].argmax(1)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    path, models = trained(tmp_path / "run", model, [(x, y)], loss, rate=0.5)
    objective = Objective(model, x, y, F.cross_entropy)
    answers = models[2].eval()(x).argmax(1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (y.numpy(), answers.numpy()), 1)
    found = confusion(objective, path[2], sides=path.sides(2))
    np.testing.assert_array_equal(found.counts, expected)
    layer = "0" if merged else "base_model.model.0"
    (kept,) = activations(path, objective, 2, modules=[layer]).names
    assert kept == layer
    assert ("PeftModel" in architecture(objective)) != merged
    made = copy.deepcopy(models[2]).eval()
    inputs = x[:1].clone().requires_grad_()
    made(inputs)[0, 1].backward()
    shown = saliency(objective, path[2], [0], column=1, sides=path.sides(2))
    of_gradient = next(m for name, m in shown.maps.items() if "gradient" in name.lower())
    np.testing.assert_allclose(of_gradient, inputs.grad.abs().numpy(), rtol=1e-4)


def test_sharpness_is_of_the_adapter(tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    config = peft.LoraConfig(r=1, lora_alpha=2, target_modules=["0"])
    model = peft.get_peft_model(base, config)
    x = torch.randn(40, 4)
    y = (x[:, 0] > 0).long()

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    path, models = trained(tmp_path / "run", model, [(x, y)], loss, rate=0.5)
    dynamics = measure_dynamics(path, Objective(model, x, y, F.cross_entropy), 2)
    last = copy.deepcopy(models[-1]).eval()
    rows = {n: p for n, p in last.named_parameters() if p.requires_grad}
    shapes = {n: p.shape for n, p in rows.items()}

    def of_vector(vector):
        parts = vector.split([s.numel() for s in shapes.values()])
        tensors = {n: part.view(shapes[n]) for n, part in zip(rows, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(last, tensors, (x,)), y)

    vector = torch.from_numpy(vector_of(last)).float()
    hessian = torch.autograd.functional.hessian(of_vector, vector)
    assert dynamics.sharpness[-1] == pytest.approx(
        float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-2
    )
