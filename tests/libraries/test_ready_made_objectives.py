"""Checkpoints of transformers need no objective of one's own: a file of text is enough."""

import json
import os

import numpy as np
import pytest
import torch

import losspath
from losspath import import_checkpoints
from losspath.errors import ArgumentError, DamagedError, RunError, UnsupportedError
from losspath.imported import text_objective
from losspath.makers import made_by
from losspath.surface import evaluate_states

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
tokenizers = pytest.importorskip("tokenizers", reason="transformers needs it")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

WORDS = ["[PAD]", "[UNK]", *["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far"]]
TEXT = "the cat sat on a mat and the dog ran far " * 20


def tokenizer():
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]"
    )


def gpt2(**more):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=10, n_embd=8, n_layer=1, n_head=2, pad_token_id=0, **more
    )
    return config


def saved(folder, model, with_tokenizer=True):
    """Three checkpoints, at each of which all parameters have grown; the models themselves."""
    states = {}
    for step in (0, 5, 10):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * step
        model.save_pretrained(folder / f"checkpoint-{step}")
        if with_tokenizer:
            tokenizer().save_pretrained(folder / f"checkpoint-{step}")
        states[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return states


def test_a_language_model_on_a_text(tmp_path):
    model = transformers.GPT2LMHeadModel(gpt2())
    states = saved(tmp_path / "out", model)
    (tmp_path / "text.txt").write_text(TEXT)
    path = import_checkpoints(tmp_path / "out", tmp_path / "run")
    made = made_by(tmp_path / "run", path.metadata, tmp_path / "text.txt")
    objective = made.training_objective()
    found = evaluate_states(path, objective, np.arange(3)).loss
    ids = torch.tensor(tokenizer()(TEXT)["input_ids"])
    rows = ids[: len(ids) // 10 * 10].view(-1, 10)
    for index, step in enumerate((0, 5, 10)):
        model.load_state_dict(states[step])
        with torch.no_grad():
            expected = float(model.eval()(input_ids=rows, labels=rows).loss)
        assert found[index] == pytest.approx(expected, rel=1e-5)
    assert len(made.training_objective(3)) == 3
    assert made.parts == ("GPT2LMHeadModel", "run")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_classifier_on_texts_with_labels(tmp_path, ending):
    config = gpt2(num_labels=2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    model = transformers.GPT2ForSequenceClassification(config)
    states = saved(tmp_path / "out", model)
    texts, labels = ["the cat sat", "a dog", "the cat and the dog ran"], ["cat", "dog", "dog"]
    file = tmp_path / f"data.{ending}"
    if ending == "csv":
        file.write_text("text,label\n" + "".join(map("{},{}\n".format, texts, labels)))
    else:
        rows = [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)))
    path = import_checkpoints(tmp_path / "out", tmp_path / "run")
    objective = made_by(tmp_path / "run", path.metadata, file).training_objective()
    found = evaluate_states(path, objective, np.arange(3)).loss
    batch = tokenizer()(texts, padding=True, return_tensors="pt")
    for index, step in enumerate((0, 5, 10)):
        model.load_state_dict(states[step])
        with torch.no_grad():
            expected = model.eval()(**batch, labels=torch.tensor([0, 1, 1])).loss
        assert found[index] == pytest.approx(float(expected), rel=1e-5)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    from losspath.cli import main

    saved(tmp_path / "out", transformers.GPT2LMHeadModel(gpt2()))
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["import", "out", "--out", "run"],
        ["surface", "run", "--data", "text.txt", "--resolution", "5", "--samples", "6"],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0, capsys.readouterr().err
    assert "figure: " in capsys.readouterr().out
    (file,) = (tmp_path / "run" / "results").glob("surface-*.npz")
    assert losspath.Surface.load(file).provenance["samples"] == 6
    with pytest.raises(SystemExit) as end:
        main(["surface", "run", "--resolution", "5"])
    assert (end.value.code, "pass --data FILE" in capsys.readouterr().err) == (1, True)


def test_what_is_missing_is_told(tmp_path):
    model = transformers.GPT2LMHeadModel(gpt2())
    saved(tmp_path / "out", model, with_tokenizer=False)
    path = import_checkpoints(tmp_path / "out", tmp_path / "run")
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(RunError, match="pass --data FILE"):
        made_by(tmp_path / "run", path.metadata).training_objective()
    with pytest.raises(RunError, match="has no tokenizer"):
        made_by(tmp_path / "run", path.metadata, tmp_path / "text.txt").training_objective()
    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    other = import_checkpoints(tmp_path / "1.pt", tmp_path / "other")
    with pytest.raises(RunError, match="say nothing of their network; pass --objective"):
        made_by(tmp_path / "other", other.metadata, tmp_path).training_objective()


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("short.txt", "the cat", ArgumentError, "at least 10 tokens of text in .*, got 2"),
        ("bytes.txt", b"\xff\xfe", DamagedError, "is no text in UTF-8"),
        ("missing.txt", None, losspath.LosspathError, "missing.txt"),
    ],
)
def test_texts_that_are_none(tmp_path, name, content, error, says):
    saved(tmp_path / "out", transformers.GPT2LMHeadModel(gpt2()))
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=says):
        text_objective(tmp_path / "out" / "checkpoint-0", file)


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        (
            "a.csv",
            "words,label\nthe cat,1\n",
            ArgumentError,
            "a column text or sentence",
        ),
        ("a.csv", "text,kind\nthe cat,1\n", ArgumentError, "a column label or labels in"),
        ("a.csv", "text,label\n", ArgumentError, "rows with a text and a label in"),
        ("a.csv", "text,label\nthe cat,bird\n", ArgumentError, "labels among .*, got 'bird'"),
        ("a.jsonl", "the cat\n", DamagedError, "a JSON object in line 1"),
    ],
)
def test_tables_that_are_none(tmp_path, name, content, error, says):
    model = transformers.GPT2ForSequenceClassification(gpt2(num_labels=2))
    saved(tmp_path / "out", model)
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=says):
        text_objective(tmp_path / "out" / "checkpoint-0", tmp_path / name)


def test_networks_of_other_kinds_are_refused(tmp_path):
    model = transformers.GPT2Model(gpt2())
    saved(tmp_path / "out", model)
    with pytest.raises(UnsupportedError, match="classifier of sequences, got GPT2Model"):
        text_objective(tmp_path / "out" / "checkpoint-0", tmp_path / "text.txt")


def test_what_an_earlier_run_knew_of_its_network_is_forgotten(tmp_path):
    saved(tmp_path / "out", transformers.GPT2LMHeadModel(gpt2()))
    import_checkpoints(tmp_path / "out", tmp_path / "run")
    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    path = import_checkpoints(tmp_path / "1.pt", tmp_path / "run", existing="overwrite")
    with pytest.raises(RunError, match="say nothing of their network"):
        made_by(tmp_path / "run", path.metadata, tmp_path).training_objective()


def test_what_is_known_of_the_network_stays_when_others_are_added(tmp_path):
    saved(tmp_path / "out", transformers.GPT2LMHeadModel(gpt2()))
    import_checkpoints(tmp_path / "out" / "checkpoint-[05]", tmp_path / "run")
    kept = sorted(file.name for file in (tmp_path / "run" / "imported-model").iterdir())
    (tmp_path / "later").mkdir()
    weights = tmp_path / "out" / "checkpoint-10" / "model.safetensors"
    weights.rename(tmp_path / "later" / "step-10.safetensors")
    path = import_checkpoints(tmp_path / "later", tmp_path / "run", existing="resume")
    assert path.steps.tolist() == [0, 5, 10]
    assert sorted(file.name for file in (tmp_path / "run" / "imported-model").iterdir()) == kept


def test_no_samples_and_the_callers_random_numbers(tmp_path):
    saved(tmp_path / "out", transformers.GPT2LMHeadModel(gpt2()))
    (tmp_path / "text.txt").write_text(TEXT)
    path = import_checkpoints(tmp_path / "out", tmp_path / "run")
    made = made_by(tmp_path / "run", path.metadata, tmp_path / "text.txt")
    with pytest.raises(ArgumentError, match="samples as a whole number, at least 1, got 0"):
        made.training_objective(0)
    before = torch.get_rng_state()
    made.training_objective(3)
    assert torch.equal(torch.get_rng_state(), before)
