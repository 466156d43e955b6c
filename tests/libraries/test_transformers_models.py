"""Models of the transformers library, from their configurations alone."""

import copy
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from library_runs import assert_run_is_right, content, plain, trained

from losspath import Objective, activations, architecture, confusion
from losspath.errors import ObjectiveError

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

WORDS, COUNT, LENGTH = 30, 12, 6
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def bert():
    config = transformers.BertConfig(
        vocab_size=WORDS,
        intermediate_size=24,
        max_position_embeddings=8,
        num_labels=3,
        hidden_dropout_prob=0.2,
        **SMALL,
    )
    return transformers.BertForSequenceClassification(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=8, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.2
    )
    return transformers.GPT2LMHeadModel(config)


def t5():
    config = transformers.T5Config(
        vocab_size=WORDS,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.2,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        intermediate_size=24,
        num_key_value_heads=1,
        max_position_embeddings=16,
        attention_dropout=0.2,
        **SMALL,
    )
    return transformers.LlamaForCausalLM(config)


def checkpointed():
    model = gpt2()
    model.gradient_checkpointing_enable()
    return model


MODELS = {"bert": bert, "gpt2": gpt2, "t5": t5, "llama": llama, "checkpointed": checkpointed}


def data(kind):
    """Input of one length, its last places padded for some, labels for every place or sample."""
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(1, WORDS, (COUNT, LENGTH), generator=generator)
    mask = torch.ones_like(words)
    mask[::3, 4:] = 0
    if kind == "bert":
        labels = words[:, 0] % 3
    elif kind == "t5":
        labels = torch.randint(1, WORDS, (COUNT, 4), generator=generator)
    else:
        labels = words.clone()
    return {"input_ids": words * mask, "attention_mask": mask, "labels": labels}


def in_batches(whole, size=7):
    return [{k: v[i : i + size] for k, v in whole.items()} for i in range(0, COUNT, size)]


def own_loss(model, batch):
    return model(**batch).loss


@pytest.fixture(params=MODELS)
def run(request, tmp_path):
    torch.manual_seed(0)
    model, whole = MODELS[request.param](), data(request.param)
    batches = in_batches(whole)
    path, models = trained(tmp_path / "run", model, batches, own_loss)
    return request.param, model, whole, batches, path, models


@pytest.mark.mostly_slow(1)
def test_of_batches_from_record_to_diagnose(run):
    kind, model, _, batches, path, models = run
    before = content(model)
    objective = Objective.of_batches(model, batches, own_loss)
    line = assert_run_is_right(path, models, objective, batches, own_loss, layers=kind == "gpt2")
    assert (len(line.names) > 5) == (kind == "gpt2")
    found = activations(path, objective, 2)
    assert np.isfinite(found.edges).all()
    assert content(model) == before


@pytest.mark.mostly_slow(1)
def test_inputs_by_name(run):
    kind, model, whole, batches, path, models = run
    before = content(model)
    objective = Objective(model, whole, None, lambda out: out.loss, batch_size=7)
    for index in (len(models) - 1, 0, 3):
        expected = plain(models[index], batches, own_loss)
        assert objective(path[index]).loss == pytest.approx(expected, rel=1e-5)
    if kind == "bert":
        assert "classifier" in architecture(objective)
    assert content(model) == before


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_means_over_tokens_that_are_not_padding(kind, tmp_path):
    torch.manual_seed(0)
    model, whole = MODELS[kind](), data(kind)
    targets = whole.pop("labels").masked_fill(whole["attention_mask"] == 0, -100)

    def loss(out, labels):
        logits, labels = out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return F.cross_entropy(logits, labels, reduction="sum"), (labels >= 0).sum()

    with pytest.raises(
        ObjectiveError, match=r"tokens that are not ignored: return \(sum, weight\)"
    ):
        Objective(model, {**whole, "labels": targets}, None, lambda out: out.loss, batch_size=7)
    metrics = {"perplexity": (loss, np.exp)}
    objective = Objective(model, whole, targets, loss, batch_size=5, metrics=metrics)
    path, models = trained(
        tmp_path / "run", model, [{**whole, "labels": targets}], own_loss, steps=3
    )
    for index in (3, 0, 1):
        used = copy.deepcopy(models[index]).eval()
        with torch.no_grad():
            expected = float(used(**whole, labels=targets).loss)  # all at once
        found = objective(path[index])
        assert found.loss == pytest.approx(expected, rel=1e-5)
        assert found.metrics["perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)


def test_half_precision_is_evaluated_in_single(tmp_path):
    torch.manual_seed(0)
    model, whole = llama().bfloat16(), data("llama")
    path, models = trained(tmp_path / "run", model, [whole], own_loss, steps=2)
    encoded = transformers.BatchEncoding(whole)
    objective = Objective(model, encoded, None, lambda out: out.loss)
    for index in (2, 0):
        expected = plain(copy.deepcopy(models[index]).float(), [whole], own_loss)
        assert objective(path[index]).loss == pytest.approx(expected, rel=1e-5)
    assert "float32" in objective.provenance["notes"][0]


def test_confusion_of_a_classifier(tmp_path):
    torch.manual_seed(0)
    model, whole = bert(), data("bert")
    path, models = trained(tmp_path / "run", model, in_batches(whole), own_loss, rate=0.5)
    labels = whole.pop("labels")
    objective = Objective(
        model, whole, labels, lambda out, t: F.cross_entropy(out.logits, t), batch_size=5
    )
    used = copy.deepcopy(models[-1]).eval()
    with torch.no_grad():
        taken = used(**whole).logits.argmax(1)
    expected = np.zeros((3, 3), int)
    for right, answer in zip(labels.tolist(), taken.tolist(), strict=True):
        expected[right, answer] += 1
    found = confusion(
        objective, path[-1], predict=lambda out: out.logits.argmax(1), labels=list("abc")
    )
    np.testing.assert_array_equal(found.counts, expected)


def test_tied_embeddings_are_in_a_row_once(tmp_path):
    for kind, names in (
        ("gpt2", ["transformer.wte.weight"]),
        ("t5", ["shared.weight"]),
    ):
        model = MODELS[kind]()
        path, _ = trained(tmp_path / kind, model, in_batches(data(kind)), own_loss, steps=2)
        of_words = [e.name for e in path.layout.parameters if WORDS in e.shape]
        assert of_words == names
        assert path.parameter_count == sum(p.numel() for p in model.parameters())


def test_tables_that_do_not_change_are_written_once(tmp_path):
    """Positions, causal masks and rotary tables: with more steps a run grows by its rows alone."""
    for kind in ("bert", "llama", "gpt2"):
        sizes = []
        for steps in (3, 13):
            torch.manual_seed(0)
            directory = tmp_path / f"{kind}{steps}"
            model = MODELS[kind]()
            path, _ = trained(directory, model, in_batches(data(kind)), own_loss, steps)
            sizes.append(sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()))
        assert sizes[1] - sizes[0] < 10 * (4 * path.parameter_count + 2000)
