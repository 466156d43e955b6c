"""Runs from checkpoints that a training script saved.

>>> import tempfile, torch
>>> from pathlib import Path
>>> folder, model = Path(tempfile.mkdtemp()), torch.nn.Linear(2, 1)
>>> for step in (0, 10, 20):
...     _ = torch.nn.init.constant_(model.weight, step / 10)
...     torch.save({"model": model.state_dict(), "step": step}, folder / f"at-{step}.pt")
>>> path = import_checkpoints(folder / "*.pt", folder / "run", parameters="weight")
>>> path.steps.tolist(), path[:].tolist()
([0, 10, 20], [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
"""

from losspath.importing.checkpoints import import_checkpoints

__all__ = ["import_checkpoints"]
