"""Reading one checkpoint: its tensors by name, and the step that it says it is of.

Nothing is unpickled but by torch's ``weights_only`` loading, which builds tensors and plain values
and runs no code of the file's.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file

from losspath.errors import DamagedError, StoreError, UnsupportedError, wrap_os_errors
from losspath.importing.state_dicts import EPOCHS, Checkpoint, Choice, Tensors, chosen, step_in
from losspath.recording.header import MODEL_FILES

# What transformers keeps beside the weights that says how they are used.
_OF_MODEL = re.compile(
    r"(adapter_)?config\.json|.*token.*\.json|vocab\..*|merges\.txt|.*\.model|special_tokens_map\.json"
)
_LARGEST_FILE = 64 << 20

TORCH = (".pt", ".pth", ".ckpt", ".bin", ".t7", ".pth.tar", ".pt.tar")
SAFETENSORS = ".safetensors"
INDEX = ".index.json"
TRAINER_STATE = "trainer_state.json"

# What folders keep a model in, the first that is there; the index of one in parts comes first.
_MODELS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")


def is_checkpoint(place: Path) -> bool:
    """Whether a file or folder is a checkpoint, by its name and what is in it."""
    if place.is_dir():
        return _format_of(place) is not None
    return place.name.endswith((*TORCH, SAFETENSORS, INDEX)) and not is_shard(place)


def is_shard(place: Path) -> bool:
    """Whether a file is a part of a checkpoint of several, whose index is to be read."""
    return bool(_SHARD.search(place.name))


def read_checkpoint(place: Path, choice: Choice) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        place: a file, or a folder that a library made.
        choice: which of several state dicts.

    Raises:
        StoreError: there is no such file, or it cannot be read.
        DamagedError: it is not what its name says.
        UnsupportedError: it holds more than tensors and plain values, or is of an unknown kind.
        ArgumentError: it holds several state dicts, and `choice` does not say which.
    """
    with wrap_os_errors(f"read {place}"):
        if place.is_dir():
            read = _format_of(place)
            if read is None:
                raise UnsupportedError(
                    f"expected a checkpoint, got the folder {place}, which has none of "
                    f"{', '.join((*_MODELS, *_ADAPTERS))} and no .metadata"
                )
            found = read(place, choice)
            step = _step_of_trainer(place / TRAINER_STATE)
            return found if step is None else dataclasses.replace(found, step=step, epoch=None)
        if not place.exists():
            raise StoreError(f"expected a checkpoint, found no file {place}")
        return _file(place, choice)


def _notes(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself."""
    with wrap_os_errors(f"read {file}"):
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                return opened.metadata() or {}
        except safetensors.SafetensorError as cause:
            raise DamagedError(f"{file} cannot be read as safetensors: {cause}") from cause


def keep_model_files(places: Sequence[Path], run: Path, is_new: bool) -> None:
    """Copies what folders of transformers say of their network and tokenizer into a run.

    Args:
        places: the checkpoint, and before it the base of an adapter; nothing is copied where none
            has a ``config.json``.
        run: the run.
        is_new: whether it was begun now, so that what is there is of another one.
    """
    target = run / MODEL_FILES
    if is_new:
        shutil.rmtree(target, ignore_errors=True)
    if not any((place / "config.json").is_file() for place in places):
        return
    with wrap_os_errors(f"write {target}"):
        target.mkdir(exist_ok=True)
        for file in (file for place in places if place.is_dir() for file in place.iterdir()):
            is_small = file.is_file() and file.stat().st_size <= _LARGEST_FILE
            if is_small and _OF_MODEL.fullmatch(file.name):
                shutil.copyfile(file, target / file.name)


def _format_of(folder: Path) -> Callable[[Path, Choice], Checkpoint] | None:
    if (folder / ".metadata").exists():
        from losspath.importing.distributed import read_distributed

        return read_distributed
    for names, read in ((_ADAPTERS, _adapter), (_MODELS, _model_folder)):
        if any((folder / name).exists() for name in names):
            return read
    return None


def _model_folder(folder: Path, choice: Choice) -> Checkpoint:
    return _file(next(folder / name for name in _MODELS if (folder / name).exists()), choice)


def _adapter(folder: Path, choice: Choice) -> Checkpoint:
    """A PEFT adapter, whose tensors are named as in a `PeftModel` whose adapter is "default"."""
    file = next(folder / name for name in _ADAPTERS if (folder / name).exists())
    found, config = _file(file, choice), folder / ADAPTER_CONFIG
    try:
        trained = json.loads(config.read_text()).get("modules_to_save") if config.exists() else ()
    except (ValueError, AttributeError) as cause:
        raise DamagedError(f"{config} cannot be read: {cause}") from cause
    tensors = {in_peft_model(n, trained or ()): tensor for n, tensor in found.tensors.items()}
    return dataclasses.replace(found, tensors=tensors, is_adapter=True)


def in_peft_model(name: str, trained: Collection[str] = ()) -> str:
    """What a tensor of an adapter's file is called in a `PeftModel`: with the adapter's name.

    Args:
        name: as in the file.
        trained: modules that are trained whole, and saved with the adapter.
    """
    parts = name.split(".")
    for number, part in enumerate(parts):
        rest = parts[number + 1 :]
        if part.startswith("lora_"):
            if part == "lora_magnitude_vector" and not rest:
                rest = ["weight"]
            return ".".join([*parts[: number + 1], "default", *rest])
        if part in trained:
            return ".".join([*parts[: number + 1], "modules_to_save", "default", *rest])
    return name


def _file(file: Path, choice: Choice) -> Checkpoint:
    if is_shard(file):
        raise UnsupportedError(
            f"{file} is one part of a checkpoint; give its folder, or the file that ends with "
            f"{INDEX}"
        )
    if file.name.endswith(INDEX):
        return _sharded(file, choice)
    if file.suffix == SAFETENSORS:
        return _safetensors(file, choice)
    return _torch(file, choice)


def _sharded(index: Path, choice: Choice) -> Checkpoint:
    try:
        places: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as cause:
        raise DamagedError(f"{index} is no index of a checkpoint: {cause!r}") from cause
    parts: dict[str, Checkpoint] = {}
    tensors: Tensors = {}
    for name, part in places.items():
        file = index.parent / part
        if file.parent.resolve() != index.parent.resolve():
            raise DamagedError(f"{index} names a file outside of its folder: {part}")
        if part not in parts:
            parts[part] = (_safetensors if file.suffix == SAFETENSORS else _torch)(file, choice)
        if name not in parts[part].tensors:
            raise DamagedError(f"{index} says that {name} is in {part}, where it is not")
        tensors[name] = parts[part].tensors[name]
    return Checkpoint(tensors, None, is_ordered=False)


def _safetensors(file: Path, choice: Choice) -> Checkpoint:
    try:
        tensors = load_file(file)
    except safetensors.SafetensorError as cause:
        raise DamagedError(f"{file} cannot be read as safetensors: {cause}") from cause
    tensors = dict(chosen(tensors, choice, file))
    notes = _notes(file)
    return Checkpoint(tensors, step_in(notes), is_ordered=False, epoch=step_in(notes, EPOCHS))


def _torch(file: Path, choice: Choice) -> Checkpoint:
    content = load_weights(file)
    tensors = {name: tensor.detach() for name, tensor in chosen(content, choice, file).items()}
    if not isinstance(content, Mapping):
        return Checkpoint(tensors, None)
    return Checkpoint(tensors, step_in(content), epoch=step_in(content, EPOCHS))


def load_weights(file: Path) -> Any:
    """What ``torch.load(weights_only=True)`` gives of a file.

    Raises:
        UnsupportedError: it holds something else than tensors and plain values, which is named.
        DamagedError: torch cannot read it.
    """
    try:
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of the old kind cannot be mapped
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as cause:
        raise _refusal(file, cause) from cause


def _refusal(file: Path, cause: Exception) -> StoreError | UnsupportedError:
    told = str(cause)
    found = re.search(r"GLOBAL ([\w.]+) was not|globals? (\w+\.[\w.]+)", told)
    if found:
        name = found[1] or found[2]
        return UnsupportedError(
            f"{file} holds {name}, and not only tensors and plain values, so that reading it would "
            "run code; save the model's state_dict() alone, or, if you trust the file, write it "
            'anew: torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW), or allow '
            f"{name} by torch.serialization.add_safe_globals before import_checkpoints"
        )
    # Before this mark stands torch's advice on how to load the file all the same.
    told = told.rpartition("WeightsUnpickler error:")[2].strip()
    line = told.splitlines()[0] if told and not isinstance(cause, KeyError) else ""
    line = line or "it is no pickle, or only a part of one"
    return DamagedError(
        f"{file} cannot be read as a checkpoint of torch: {line}; expected what torch.save writes"
    )


def _step_of_trainer(file: Path) -> int | None:
    if not file.exists():
        return None
    try:
        return step_in(json.loads(file.read_text()))
    except ValueError as cause:
        raise DamagedError(f"{file} cannot be read: {cause}") from cause
