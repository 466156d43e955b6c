"""Adapters that are imported with the network that they are of: surfaces need nothing else."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from test_ready_made_objectives import TEXT, WORDS, gpt2, tokenizer
from torch import nn

import losspath
from losspath import Objective, Trajectory, import_checkpoints
from losspath.errors import (
    ArgumentError,
    DamagedError,
    ModelError,
    RunError,
    StoreError,
    UnsupportedError,
)
from losspath.makers import made_by
from losspath.surface import evaluate_states

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
peft = pytest.importorskip("peft", reason="peft is a test dependency")
transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]

STEPS = (0, 5, 10)
LORA = {"r": 2, "target_modules": ["c_attn"]}
CONFIGS = {
    "lora": LORA,
    "whole modules": {**LORA, "modules_to_save": ["ln_f"]},
    "dora": {**LORA, "use_dora": True},
    "biases": {**LORA, "bias": "lora_only"},
    "embeddings": {**LORA, "target_modules": ["c_attn", "wte"]},
    "for language models": {**LORA, "task_type": "CAUSAL_LM"},
}


def network():
    return transformers.GPT2LMHeadModel(gpt2())


def saved_base(folder, dtype=torch.float32):
    network().to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def saved_adapters(folder, base, save_embedding_layers=False, **options):
    """Three checkpoints of an adapter, at each of which all that is trained has moved."""
    torch.manual_seed(1)
    model = peft.get_peft_model(base, peft.LoraConfig(**options))
    for step in STEPS:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape)
        model.save_pretrained(
            folder / f"checkpoint-{step}", save_embedding_layers=save_embedding_layers
        )
    return folder


def stretches():
    ids = torch.tensor(tokenizer()(TEXT)["input_ids"])
    return ids[: len(ids) // 10 * 10].view(-1, 10)


def losses_of(base, folder):
    """By peft's own loading of base and adapter."""
    found = []
    for step in STEPS:
        model = transformers.GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(model, folder / f"checkpoint-{step}").eval()
        with torch.no_grad():
            found.append(float(model(input_ids=stretches(), labels=stretches()).loss))
    return found


def content(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def objective_of(run, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return made_by(run, Trajectory(run).metadata, tmp_path / "text.txt").training_objective()


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_on_a_text(tmp_path, kind, link):
    base = saved_base(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", network(), **CONFIGS[kind])
    before = content(base)
    path = import_checkpoints(out, tmp_path / "run", base=base, link=link)
    alone = import_checkpoints(out, tmp_path / "alone")
    assert path[:].tobytes() == alone[:].tobytes()  # states are the adapter alone
    found = evaluate_states(path, objective_of(tmp_path / "run", tmp_path), np.arange(3)).loss
    expected = losses_of(base, out)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert len({round(loss, 5) for loss in expected}) == 3
    assert content(base) == before
    own = load_file(base / "model.safetensors")
    sides = path.sides(1)
    inner = {
        n.removeprefix("base_model.model.")
        .replace(".base_layer.", ".")
        .replace(".original_module.", "."): t
        for n, t in sides.items()
    }
    trained = {e.name for e in path.layout.parameters if ".base_layer." in e.name}
    assert set(own) - set(inner) == {
        n.removeprefix("base_model.model.").replace(".base_layer.", ".") for n in trained
    }
    assert all(torch.equal(own[name], tensor) for name, tensor in inner.items())
    assert set(path.side_kinds.values()) == {"frozen"}
    adapted = peft.get_peft_model(network(), peft.LoraConfig(**CONFIGS[kind]))
    assert {n for n, p in adapted.named_parameters() if not p.requires_grad} == set(sides)


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("module", ["wte", "lm_head"])
def test_an_embedding_that_is_saved_with_its_adapter_is_no_part_of_it(tmp_path, module, with_base):
    base = saved_base(tmp_path / "base")
    options = {"r": 2, "target_modules": ["c_attn", module]}
    out = saved_adapters(tmp_path / "out", network(), save_embedding_layers="auto", **options)
    path = import_checkpoints(out, tmp_path / "run", base=base if with_base else None)
    assert all(".lora_" in entry.name for entry in path.layout.parameters)
    if with_base:
        objective = objective_of(tmp_path / "run", tmp_path)
    else:
        model = peft.get_peft_model(network(), peft.LoraConfig(**options))
        batch = {"input_ids": stretches(), "labels": stretches()}
        objective = Objective.of_batches(model, [batch], lambda model, batch: model(**batch).loss)
    found = evaluate_states(path, objective, np.arange(3)).loss
    assert found.tolist() == pytest.approx(losses_of(base, out), rel=1e-5)


def test_what_is_tied_in_the_model_and_was_not_in_the_run_is_refused(tmp_path):
    base = saved_base(tmp_path / "base")
    options = {"r": 2, "target_modules": ["c_attn", "lm_head"]}
    out = saved_adapters(tmp_path / "out", network(), save_embedding_layers="auto", **options)
    for step in STEPS:
        file = out / f"checkpoint-{step}" / "adapter_model.safetensors"
        tensors = load_file(file)
        tensors["base_model.model.lm_head.base_layer.weight"] += 1
        save_file(tensors, file)
    path = import_checkpoints(out, tmp_path / "run", base=base)
    with pytest.raises(ModelError, match=r"lm_head.base_layer.weight with numbers of its own"):
        evaluate_states(path, objective_of(tmp_path / "run", tmp_path), np.arange(3))


def test_the_base_is_kept_once(tmp_path):
    base = saved_base(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", network(), **LORA)
    path = import_checkpoints(out, tmp_path / "run", base=base)
    size = sum(t.numel() * 4 for t in load_file(base / "model.safetensors").values())
    assert size <= (tmp_path / "run" / "sides.bin").stat().st_size < size + 10_000
    assert len({path.side_key(index) for index in range(3)}) == 1
    assert path.notes == []


def test_half_precisions_of_a_base_widen_exactly(tmp_path):
    base = saved_base(tmp_path / "base", torch.bfloat16)
    out = saved_adapters(tmp_path / "out", network(), **LORA)
    path = import_checkpoints(out, tmp_path / "run", base=base)
    assert {tensor.dtype for tensor in path.sides(0).values()} == {torch.bfloat16}
    found = evaluate_states(path, objective_of(tmp_path / "run", tmp_path), np.arange(3)).loss
    assert found.tolist() == pytest.approx(losses_of(base, out), rel=1e-5)


def test_a_classifier(tmp_path):
    config = gpt2(num_labels=2)
    model = transformers.GPT2ForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", model, **LORA, task_type="SEQ_CLS")
    (tmp_path / "data.csv").write_text("text,label\nthe cat,0\na dog ran,1\n")
    path = import_checkpoints(out, tmp_path / "run", base=tmp_path / "base")
    assert any("score.modules_to_save" in entry.name for entry in path.layout.parameters)
    objective = made_by(tmp_path / "run", path.metadata, tmp_path / "data.csv").training_objective()
    found = evaluate_states(path, objective, np.arange(3)).loss
    batch = tokenizer()(["the cat", "a dog ran"], padding=True, return_tensors="pt")
    for index, step in enumerate(STEPS):
        own = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path / "base")
        own = peft.PeftModel.from_pretrained(own, out / f"checkpoint-{step}").eval()
        with torch.no_grad():
            expected = float(own(**batch, labels=torch.tensor([0, 1])).loss)
        assert found[index] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    from losspath.cli import main

    base = saved_base(tmp_path / "base")
    saved_adapters(tmp_path / "out", network(), **LORA)
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([*words])
        return end.value.code, capsys.readouterr()

    surface = ("surface", "run", "--data", "text.txt", "--resolution", "3")
    assert call("import", "out", "--out", "run")[0] == 0
    code, told = call(*surface)
    assert (code, "import them with its folder as --base" in told.err) == (1, True)
    code, told = call("import", "out", "--out", "run", "--base", "base")
    assert (code, "without the base of its adapter" in told.err) == (1, True)
    assert call("import", "out", "--out", "with", "--base", "base")[0] == 0
    for folder in (base, tmp_path / "out"):  # offline, and without what it came from
        folder.rename(folder.with_name(f"no-{folder.name}"))
    code, told = call("surface", "with", *surface[2:])
    assert (code, "figure: " in told.out) == (0, True), told.err
    (file,) = (tmp_path / "with" / "results").glob("surface-*.npz")
    found = losspath.Surface.load(file).states
    expected = losses_of(tmp_path / "no-base", tmp_path / "no-out")
    assert found.loss.tolist() == pytest.approx([expected[i] for i in found.index], rel=1e-5)


def test_a_state_dict_as_the_base(tmp_path):
    def plain(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))

    torch.save({"model": plain(0).state_dict()}, tmp_path / "base.pt")
    options = {"r": 2, "target_modules": ["0"], "modules_to_save": ["3"]}
    out = saved_adapters(tmp_path / "out", plain(0), **options)
    path = import_checkpoints(out, tmp_path / "run", base=tmp_path / "base.pt")
    assert path.side_kinds["base_model.model.1.running_mean"] == "buffer"
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    # Another network around it: what is not trained is the run's.
    model = peft.get_peft_model(plain(7), peft.LoraConfig(**options))
    objective = Objective(model, x, y, F.cross_entropy)
    found = evaluate_states(path, objective, np.arange(3)).loss
    for index, step in enumerate(STEPS):
        own = peft.PeftModel.from_pretrained(plain(0), out / f"checkpoint-{step}").eval()
        with torch.no_grad():
            assert found[index] == pytest.approx(float(F.cross_entropy(own(x), y)), rel=1e-5)


def test_adapters_are_added_with_the_same_base(tmp_path):
    base = saved_base(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", network(), **LORA)
    import_checkpoints(out / "checkpoint-[05]", tmp_path / "run", base=base)
    path = import_checkpoints(out, tmp_path / "run", base=base, existing="resume")
    assert path.digest == import_checkpoints(out, tmp_path / "whole", base=base).digest
    other = saved_base(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["transformer.wpe.weight"][0, 0] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArgumentError, match=r"wpe.weight .* is another in .*other"):
        import_checkpoints(out, tmp_path / "run", base=other, existing="resume")
    assert path.digest != import_checkpoints(out, tmp_path / "changed", base=other).digest


def linked(tmp_path):
    """A run that refers to three adapters and their base."""
    (tmp_path / "here").mkdir()
    base = saved_base(tmp_path / "here" / "base")
    out = saved_adapters(tmp_path / "here" / "out", network(), **LORA)
    return import_checkpoints(out, tmp_path / "here" / "run", base=base, link=True), base, out


def test_a_base_that_is_linked_is_not_copied(tmp_path):
    path, base, out = linked(tmp_path)
    copied = import_checkpoints(out, tmp_path / "copied", base=base)
    size = (base / "model.safetensors").stat().st_size
    kept = sum(file.stat().st_size for file in path.directory.glob("*.bin"))
    assert kept < size / 4 < sum(f.stat().st_size for f in copied.directory.glob("*.bin"))
    assert path.side_kinds == copied.side_kinds
    for index in range(3):
        found, expected = path.sides(index), copied.sides(index)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert path.notes == []
    model = peft.get_peft_model(network(), peft.LoraConfig(**LORA))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    path.load_into(model, 2)
    with torch.no_grad():
        found = float(model.eval()(input_ids=stretches(), labels=stretches()).loss)
    assert found == pytest.approx(losses_of(base, out)[2], rel=1e-6)


def test_a_linked_base_that_is_another_is_never_read(tmp_path):
    path, base, out = linked(tmp_path)
    file = base / "model.safetensors"
    raw, times = file.read_bytes(), file.stat()
    before = path.sides(0)
    wrong = bytearray(raw)
    wrong[-3] ^= 1
    with file.open("r+b") as opened:  # in place, with nothing that tells of it
        opened.write(wrong)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    for each in (path, Trajectory(path.directory)):
        with pytest.raises(DamagedError, match=r"base has other numbers than when .* was linked"):
            each.sides(1)
    assert len(path[:]) == 3  # the adapters are there
    without(base, "transformer.wpe.weight")
    with pytest.raises(DamagedError, match="base has other numbers"):
        path.sides(1)
    with pytest.raises(ArgumentError, match="is another base than that of"):
        import_checkpoints(out, path.directory, base=base, existing="resume")
    base.rename(base.with_name("gone"))
    with pytest.raises(StoreError, match=r"refers to .*base, which is not there any more"):
        path.sides(1)
    base.with_name("gone").rename(base)
    file.write_bytes(raw)
    after = path.sides(0)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_linked_base_moves_with_its_run(tmp_path):
    path, *_ = linked(tmp_path)
    before = path.sides(0)
    (tmp_path / "here").rename(tmp_path / "there")
    there = Trajectory(tmp_path / "there" / "run")
    assert there.digest == path.digest
    assert all(torch.equal(before[name], tensor) for name, tensor in there.sides(2).items())
    found = evaluate_states(there, objective_of(there.directory, tmp_path), np.arange(3)).loss
    moved = (tmp_path / "there" / "base", tmp_path / "there" / "out")
    assert found.tolist() == pytest.approx(losses_of(*moved), rel=1e-5)
    # Moved apart from it, importing again says where it is.
    elsewhere = moved[0].rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="not there any more"):
        there.sides(0)
    again = import_checkpoints(moved[1], there.directory, base=elsewhere, existing="resume")
    assert all(torch.equal(before[name], tensor) for name, tensor in again.sides(2).items())


def test_linked_adapters_are_added(tmp_path):
    base = saved_base(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", network(), **LORA)
    some = out / "checkpoint-[05]"
    import_checkpoints(some, tmp_path / "run", base=base, link=True)
    path = import_checkpoints(out, tmp_path / "run", base=base, existing="resume")
    whole = import_checkpoints(out, tmp_path / "whole", base=base, link=True)
    assert path.digest == whole.digest
    assert path[:].tobytes() == whole[:].tobytes()
    tensors = load_file(base / "model.safetensors")
    tensors["transformer.wpe.weight"][0, 0] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    changed = import_checkpoints(out, tmp_path / "changed", base=base, link=True)
    assert changed.digest != whole.digest
    assert changed.side_key(0) != whole.side_key(0)


def without(base, name):
    tensors = load_file(base / "model.safetensors")
    del tensors[name]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def test_a_base_that_is_none_is_refused_by_names(tmp_path):
    base = saved_base(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", network(), **LORA, modules_to_save=["ln_f"])
    wider = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(WORDS), n_positions=10, n_embd=16, n_layer=1, n_head=2
        )
    )
    wider.save_pretrained(tmp_path / "wider")
    says = r"not the base of .*: of another shape are transformer.h.0.attn.c_attn.weight \[16, 48\]"
    with pytest.raises(ModelError, match=says):
        import_checkpoints(out, tmp_path / "run", base=tmp_path / "wider")
    with pytest.raises(StoreError, match="found no file"):
        import_checkpoints(out, tmp_path / "run", base=tmp_path / "none")
    with pytest.raises(ArgumentError, match="which is none: it has the weights of its network"):
        import_checkpoints(base, tmp_path / "run", base=base, steps=[1])
    without(base, "transformer.h.0.attn.c_attn.weight")
    with pytest.raises(ModelError, match=r"it lacks transformer.h.0.attn.c_attn.weight"):
        import_checkpoints(out, tmp_path / "run", base=base)
    assert not (tmp_path / "run").exists()
    # What the adapter does not touch is missed by the network alone.
    base = saved_base(tmp_path / "base")
    without(base, "transformer.wpe.weight")
    import_checkpoints(out, tmp_path / "run", base=base)
    with pytest.raises(RunError, match=r"lacks parameters of its network, .*wpe.weight; import"):
        objective_of(tmp_path / "run", tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, r"an adapter of LoRA .*, got IA3 in"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            UnsupportedError,
            "'pissa_niter_4', which changes",
        ),
        (None, DamagedError, "adapter_config.json cannot be read"),
    ],
)
def test_adapters_that_need_another_network_are_refused(tmp_path, change, error, says):
    base = saved_base(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", network(), **LORA)
    file = out / "checkpoint-0" / "adapter_config.json"
    file.write_text(
        "{" if change is None else json.dumps({**json.loads(file.read_text()), **change})
    )
    with pytest.raises(error, match=says):
        import_checkpoints(out, tmp_path / "run", base=base)


def test_an_adapter_for_another_task_is_refused(tmp_path):
    base = saved_base(tmp_path / "base")
    out = saved_adapters(tmp_path / "out", network(), **LORA)
    file = out / "checkpoint-10" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "task_type": "SEQ_CLS"}))
    import_checkpoints(out, tmp_path / "run", base=base)
    with pytest.raises(UnsupportedError, match="an adapter of SEQ_CLS, got GPT2LMHeadModel"):
        objective_of(tmp_path / "run", tmp_path)
