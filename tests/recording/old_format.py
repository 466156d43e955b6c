"""Writes runs of the first format, from its description alone."""

import json

import numpy as np
import torch
import xxhash

from losspath.files import write_document

FILES = ("trajectory.json", "states.bin", "records.bin", "losses.bin", "index.jsonl")


def table(model, dtype="float32"):
    """The layout table: parameters, then the floating-point buffers."""
    named = [(n, t, "parameter") for n, t in model.named_parameters()]
    named += [
        (n, t, "buffer")
        for n, t in model.named_buffers()
        if t.is_floating_point() or t.is_complex()
    ]
    return [
        {
            "name": name,
            "shape": [*tensor.shape, *([2] if tensor.is_complex() else [])],
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "kind": kind,
        }
        for name, tensor, kind in named
    ]


def row_of(model, dtype="float32"):
    """A row: what the table lists, one after the other."""
    names = {entry["name"] for entry in table(model)}
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    numbers = [
        (torch.view_as_real(t) if t.is_complex() else t).detach().double().reshape(-1).numpy()
        for n, t in tensors.items()
        if n in names
    ]
    return np.concatenate(numbers).astype("<f4" if dtype == "float32" else "<f8")


def write_run(directory, model, rows, steps, losses, commits, **header):
    """Writes a run.

    `commits`: (states, losses, closed) after each line of the index.
    """
    directory.mkdir(parents=True)
    content = {
        "format": "losspath trajectory",
        "version": 1,
        "dtype": "float32",
        "every": 1,
        "layout": table(model),
        "metadata": {},
        **header,
    }
    write_document(directory / "trajectory.json", content)
    digests = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in rows]
    records = list(zip(steps, digests, strict=True))
    records = np.array(records, [("step", "<i8"), ("digest", "<u8")])
    losses = np.array(losses, "<f8")
    (directory / "states.bin").write_bytes(b"".join(row.tobytes() for row in rows))
    (directory / "records.bin").write_bytes(records.tobytes())
    (directory / "losses.bin").write_bytes(losses.tobytes())
    lines, check, before = b"", "", (0, 0)
    for states, values, closed in commits:
        body = [
            states,
            values,
            xxhash.xxh3_64_hexdigest(records[before[0] : states].tobytes()),
            xxhash.xxh3_64_hexdigest(losses[before[1] : values].tobytes()),
            closed,
        ]
        check = xxhash.xxh3_64_hexdigest(json.dumps([check, *body]).encode())
        lines += json.dumps([*body, check]).encode() + b"\n"
        before = (states, values)
    (directory / "index.jsonl").write_bytes(lines)


class Walk:
    """A model whose state at every step is known, and a run of it."""

    def __init__(self, steps=10, every=1, dtype="float32"):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        self.every, self.dtype = every, dtype
        self.parameters, self.buffers, self.rows = [], [], []
        for step in range(steps + 1):
            if step:
                self.advance(step)
            parameters = [p.detach().reshape(-1).double() for p in self.model.parameters()]
            self.parameters.append(torch.cat(parameters).numpy().astype(dtype))
            self.buffers.append(
                {n: b.clone() for n, b in self.model.named_buffers() if b.is_floating_point()}
            )
            self.rows.append(row_of(self.model, dtype))
        self.losses = [step / 7 + 0.25 for step in range(steps)]
        self.steps = sorted({*range(0, steps + 1, every), steps})

    def advance(self, step):
        with torch.no_grad():
            for number, parameter in enumerate(self.model.parameters()):
                parameter.add_(
                    torch.sin(torch.arange(parameter.numel()) + step + number).view_as(parameter)
                )
            if step % 2:  # so that some states have the buffers of the one before
                self.model[1].running_mean.add_(step)

    def write(self, directory, closed=True, **header):
        """Writes the run in three commits, the last of which may close it."""
        rows = [self.rows[step] for step in self.steps]
        count, losses = len(rows), len(self.losses)
        third = max(1, count // 3)
        commits = [
            (third, min(losses, third * self.every), False),
            (count - 1, min(losses, (count - 1) * self.every), False),
            (count, losses, closed),
        ]
        header = {"every": self.every, "dtype": self.dtype, "metadata": {"a": [1, "ü"]}, **header}
        write_run(directory, self.model, rows, self.steps, self.losses, commits, **header)
        return directory
