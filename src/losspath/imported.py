"""Runs that were imported, as the commands see them.

Checkpoints of transformers say which network they are of: `losspath surface RUN --data FILE` needs
no more than a file of text, or of texts with their labels.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from losspath.arguments import checked, count
from losspath.errors import (
    ArgumentError,
    DamagedError,
    MissingExtraError,
    RunError,
    UnsupportedError,
    wrap_os_errors,
)
from losspath.evaluation.objective import Objective
from losspath.extras import extra
from losspath.makers import MadeRun
from losspath.parameters import named_parameters
from losspath.recording.header import MODEL_FILES
from losspath.recording.trajectory import Trajectory

SAMPLES = 512  # that a loss is over by default
_BATCH = 16
_LENGTH = 128  # of a stretch of text, in tokens, where the network takes as many
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_CLASSIFYING = "ForSequenceClassification"
_OF_TASKS = {"CAUSAL_LM": _CAUSAL, "SEQ_CLS": (_CLASSIFYING,)}
_ADAPTER = "adapter_config.json"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")
_TEXTS, _LABELS = ("text", "sentence", "content"), ("label", "labels")

Batch = dict[str, torch.Tensor]


def open_run(
    directory: Path, metadata: Mapping[str, Any], data_dir: Path | None
) -> ImportedRun | None:
    """The run, if it was made of checkpoints."""
    if "imported" not in metadata:
        return None
    return ImportedRun(directory, metadata, data_dir)


class ImportedRun(MadeRun):
    """A run of checkpoints. Its network is known where it is one of transformers."""

    def training_objective(self, samples: int | None = None) -> Objective:
        """The loss on a file of text, or of texts with labels."""
        return self._objective(SAMPLES if samples is None else samples)

    def validation_objective(self) -> Objective:
        """The same, as there is no other file."""
        return self._objective(SAMPLES)

    def _objective(self, samples: int) -> Objective:
        folder = self.directory / MODEL_FILES
        if not (folder / "config.json").exists():
            raise RunError(
                f"{self.directory} was imported from checkpoints, which say nothing of their "
                "network; pass --objective FILE.py:FUNCTION, or, of adapters of a network of "
                "transformers, import them with its folder as --base"
            )
        if self.data_dir is None:
            raise RunError(
                f"{self.directory} was imported from checkpoints of transformers; pass --data FILE "
                "with text to take the loss on, or --objective FILE.py:FUNCTION"
            )
        objective = text_objective(folder, self.data_dir, samples)
        _check_recorded(Trajectory(self.directory), objective.model)
        return objective

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The network's name, where it is known, and the run's."""
        try:
            config = json.loads((self.directory / MODEL_FILES / "config.json").read_text())
            named = config["architectures"][0]
        except (OSError, ValueError, LookupError, TypeError):
            return super().parts
        return (str(named), *super().parts)


@checked(samples=count(1))
def text_objective(folder: Path, data: Path, samples: int = SAMPLES) -> Objective:
    """The loss of a network of transformers on a file.

    Args:
        folder: with the network's ``config.json`` and its tokenizer, and the
            ``adapter_config.json`` where it has an adapter of PEFT.
        data: for a causal language model a file of text; for a classifier of sequences a ``.csv``
            or ``.jsonl`` file with a text and a label in each row.
        samples: stretches of text, or rows, from the beginning of the file.

    Raises:
        MissingExtraError: transformers is not installed.
        UnsupportedError: a network of another kind.
        ArgumentError: the file has no text for it.
    """
    with extra("transformers"):
        import transformers
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    name = (getattr(config, "architectures", None) or [""])[0]
    kind = getattr(transformers, name, None)
    if kind is None or not (name.endswith(_CAUSAL) or name.endswith(_CLASSIFYING)):
        raise UnsupportedError(
            f"expected a causal language model or a classifier of sequences, got {name or 'none'}; "
            "for others pass --objective FILE.py:FUNCTION"
        )
    if not any(file.name in _TOKENIZERS or file.suffix == ".model" for file in folder.iterdir()):
        raise RunError(
            f"{folder} has no tokenizer, as the checkpoints had none; put its files there, or pass "
            "--objective FILE.py:FUNCTION"
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    make = _labelled if name.endswith(_CLASSIFYING) else _stretches
    batches = make(data, tokenizer, config, samples)
    with torch.random.fork_rng():  # its weights do not matter, the caller's random numbers do
        model = kind(config)
        if (folder / _ADAPTER).exists():
            model = _adapted(model, folder)
    return Objective.of_batches(model, batches, loss_of, name=f"{name} on {data.name}")


def _adapted(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """A network with the adapter that a folder tells of; the weights of both do not matter."""
    try:
        import peft
    except ModuleNotFoundError as cause:
        if cause.name != "peft":
            raise
        raise MissingExtraError(
            "this needs peft, which is not installed: pip install peft"
        ) from cause
    config = peft.PeftConfig.from_pretrained(str(folder), local_files_only=True)
    name, endings = type(model).__name__, _OF_TASKS.get(str(config.task_type or ""))
    if config.task_type and not (endings and name.endswith(endings)):
        raise UnsupportedError(
            f"expected a base for an adapter of {config.task_type}, got {name}; import with "
            "another --base, or pass --objective FILE.py:FUNCTION"
        )
    config.inference_mode, config.init_lora_weights = False, True
    adapted: torch.nn.Module = peft.get_peft_model(model, config)
    return adapted


def _check_recorded(path: Trajectory, model: torch.nn.Module) -> None:
    """Refuses a run that lacks parameters of a network whose own weights do not matter."""
    own = dict(named_parameters(model))
    known = {*path.side_kinds, *(entry.name for entry in path.layout_in(own).parameters)}
    # What an adapter has another one for is there, and takes no part.
    missing = [name for name in own if name not in known and ".original_module." not in name]
    if missing:
        raise RunError(
            f"{path.directory} lacks parameters of its network, {missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + "; import the checkpoints with all tensors, and those of an adapter with --base; or "
            "pass --objective FILE.py:FUNCTION"
        )


def loss_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The loss that a network of transformers computes itself."""
    loss: torch.Tensor = model(**batch).loss
    return loss


def _stretches(data: Path, tokenizer: Any, config: Any, samples: int) -> list[Batch]:
    """Stretches of equal length of a text, without what is left at its end."""
    with wrap_os_errors(f"read {data}"):
        try:
            text = data.read_text(encoding="utf-8")
        except UnicodeDecodeError as cause:
            raise DamagedError(f"{data} is no text in UTF-8: {cause}") from cause
    length = min(_LENGTH, int(getattr(config, "max_position_embeddings", None) or _LENGTH))
    tokens = torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
    found = min(samples, len(tokens) // length)
    if found == 0:
        raise ArgumentError(
            f"expected at least {length} tokens of text in {data}, got {len(tokens)}"
        )
    rows = tokens[: found * length].view(found, length)
    return [{"input_ids": part, "labels": part.clone()} for part in torch.split(rows, _BATCH)]


def _labelled(data: Path, tokenizer: Any, config: Any, samples: int) -> list[Batch]:
    """Batches of texts of about their length with their labels."""
    rows = [row for _, row in zip(range(samples), _rows(data), strict=False)]
    if not rows:
        raise ArgumentError(f"expected rows with a text and a label in {data}, got none")
    texts, labels = (
        [str(row[_column(data, row, names)]) for row in rows] for names in (_TEXTS, _LABELS)
    )
    known: Mapping[str, int] = getattr(config, "label2id", None) or {}
    try:
        numbers = [known[label] if label in known else int(label) for label in labels]
    except ValueError:
        strange = next(label for label in labels if label not in known)
        raise ArgumentError(
            f"expected labels among {', '.join(known) or 'whole numbers'} in {data}, got "
            f"{strange!r}"
        ) from None
    batches = []
    for start in range(0, len(rows), _BATCH):
        chosen = slice(start, start + _BATCH)
        found = tokenizer(texts[chosen], padding=True, truncation=True, return_tensors="pt")
        batches.append({**found, "labels": torch.tensor(numbers[chosen])})
    return batches


def _rows(data: Path) -> Iterator[Mapping[str, Any]]:
    with wrap_os_errors(f"read {data}"), data.open(newline="", encoding="utf-8") as file:
        if data.suffix == ".csv":
            yield from csv.DictReader(file)
            return
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TypeError
            except (ValueError, TypeError):
                raise DamagedError(
                    f"expected a JSON object in line {number} of {data}; a table has the ending "
                    ".csv"
                ) from None
            yield row


def _column(data: Path, row: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        if name in row:
            return name
    raise ArgumentError(
        f"expected a column {' or '.join(names)} in {data}, got {', '.join(map(str, row))}"
    )
