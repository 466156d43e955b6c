"""Transformers, on the text that comes with Python: loops, the Trainer, and LoRA."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from real_runs_kit import Run, everything, train_and_time, trainings_in_turns

import losspath

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}

import peft
import transformers

from losspath.transformers import RecorderCallback

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LENGTH, BATCH, MASK = 64, 16, 256
Batch = dict[str, torch.Tensor]


def text(loud: bool = False) -> torch.Tensor:
    """Rows of bytes of Python's own help, in capitals if loud."""
    words = "".join(topics[name] for name in sorted(topics))[: 2048 * LENGTH]
    words = words.upper() if loud else words
    return torch.tensor(list(words.encode("ascii", "replace"))).view(-1, LENGTH)


def causal(rows: torch.Tensor) -> Batch:
    """Each byte is told from those before it."""
    return {"input_ids": rows, "labels": rows}


def masked(rows: torch.Tensor) -> Batch:
    """The rows are made again of rows in which some bytes are masked, the same ones each time."""
    hidden = torch.rand(rows.shape, generator=torch.Generator().manual_seed(5)) < 0.15
    return {"input_ids": rows.masked_fill(hidden, MASK), "labels": rows}


def batch_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """What the model itself calls its loss."""
    return model(**batch).loss


def gpt2() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=257,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def t5() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=257,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def llama() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=257,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
    )
    return transformers.LlamaForCausalLM(config)


def _loop(folder: Path, model: Any, rows: torch.Tensor, make: Any, steps: int, rate: float) -> Any:
    """AdamW with a linear warm-up; `save_pretrained` at every 50 steps."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, rate)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, 30)
    torch.manual_seed(1)
    model.train()

    def step() -> list[torch.Tensor]:
        loss = batch_loss(model, make(rows[torch.randint(len(rows), (BATCH,))]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        warm_up.step()
        return [loss]

    def save(number: int) -> None:
        model.save_pretrained(folder / f"checkpoint-{number}")

    return train_and_time(folder, {"run": model}, step, steps, save, 50)


def _objective(model: torch.nn.Module, rows: torch.Tensor, make: Any) -> losspath.Objective:
    batches = [make(part) for part in rows[:128].split(64)]
    return losspath.Objective.of_batches(model, batches, batch_loss)


def language_model(folder: Path, steps: int) -> Run:
    """GPT-2 in a loop of one's own."""
    rows = text()
    timing = _loop(folder, gpt2(), rows, causal, steps, 3e-3)
    saved = {"save_pretrained": (folder / "checkpoint-*", {})}
    return Run(losspath.Trajectory(folder / "run"), _objective(gpt2(), rows, causal), timing, saved)


def tied_names(folder: Path, steps: int) -> Run:
    """T5, whose embedding has four names, of which safetensors keep one and `torch.save` all."""
    rows, model = text(), t5()
    timing = _loop(folder, model, rows, masked, steps, 3e-3)
    for place in folder.glob("checkpoint-*"):
        kept = t5().from_pretrained(place)
        torch.save({"model": kept.state_dict()}, folder / f"{place.name}.pt")
    saved: dict[str, tuple[Any, dict[str, Any]]] = {
        "save_pretrained": ([folder / f"checkpoint-{n}" for n in range(0, steps + 1, 50)], {}),
        "torch.save": (folder / "checkpoint-*.pt", {"key": "model"}),
    }
    return Run(losspath.Trajectory(folder / "run"), _objective(t5(), rows, masked), timing, saved)


class Clock(transformers.TrainerCallback):
    """Processor seconds of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.ends.append(time.process_time())

    def steps(self) -> list[float]:
        return np.diff(self.ends).tolist()


def trainer(folder: Path, steps: int) -> Run:
    """A Llama by the Trainer, with four micro-batches a step and cosine learning rates."""
    rows = text()
    samples = [{"input_ids": row, "labels": row} for row in rows]

    def train(run: Path | None) -> list[float]:
        saves = run == folder / "run"
        callbacks: list[Any] = [] if run is None else [RecorderCallback(run)]
        clock = Clock()
        arguments = transformers.TrainingArguments(
            str(folder / "out"),
            per_device_train_batch_size=8,
            gradient_accumulation_steps=4,
            max_steps=steps if saves else 24,
            save_strategy="steps" if saves else "no",
            save_steps=max(1, steps // 6),
            logging_steps=10,
            learning_rate=5e-3,
            warmup_steps=20,
            lr_scheduler_type="cosine",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        used = transformers.Trainer(
            llama(), arguments, train_dataset=samples, callbacks=[*callbacks, clock]
        )
        used.remove_callback(transformers.trainer_callback.PrinterCallback)
        used.train()
        return clock.steps()

    timing = trainings_in_turns(train, folder)
    saved = {"checkpoint-* of the Trainer": (folder / "out" / "checkpoint-*", {})}
    objective = _objective(llama(), rows, causal)
    return Run(losspath.Trajectory(folder / "run"), objective, timing, saved)


def _adapted(base: Path) -> Any:
    model = transformers.GPT2LMHeadModel.from_pretrained(base)
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.05, target_modules=["c_attn"], fan_in_fan_out=True
    )
    return peft.get_peft_model(model, config)


def lora(folder: Path, steps: int) -> Run:
    """A LoRA adapter, of a GPT-2 that was trained before, to the same text in capitals."""
    base, loud = folder / "base", text(loud=True)
    before = gpt2()
    optimizer = torch.optim.AdamW(before.parameters(), 3e-3)
    rows = text()
    for _ in range(steps):
        loss = batch_loss(before, causal(rows[torch.randint(len(rows), (BATCH,))]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before.save_pretrained(base)
    model = _adapted(base)
    timing = _loop(folder, model, loud, causal, steps, 1e-2)
    path = losspath.Trajectory(folder / "run")
    path.load_into(model, -1)  # the loop went on to time itself
    kept = copy.deepcopy(model)
    merged = model.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    saved: dict[str, tuple[Any, dict[str, Any]]] = {
        "adapter": (folder / "checkpoint-*", {}),
        "adapter with its base": (folder / "checkpoint-*", {"base": base}),
    }
    checks = {"merged": _is_merged(path, folder / "merged", kept)}
    return Run(path, _objective(_adapted(base), loud, causal), timing, saved, checks)


def _is_merged(path: losspath.Trajectory, place: Path, model: Any) -> bool:
    """Whether a merged network that was saved is what the last state is, once it is merged."""
    fresh = copy.deepcopy(model)
    path.load_into(fresh, -1)
    whole = fresh.merge_and_unload()
    steps = [int(path.steps[-1])]
    imported = losspath.import_checkpoints(
        place, place.parent / "of-merged", steps=steps, model=whole.requires_grad_(True)
    )
    values, own = everything(imported, 0), dict(whole.named_parameters())
    return all(
        values[name].tobytes() == parameter.detach().numpy().tobytes()
        for name, parameter in own.items()
    )
