"""A module that holds a checkpoint's tensors under their names, for the recorder to read."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from losspath.errors import ModelError
from losspath.parameters import unflatten
from losspath.recording import store
from losspath.recording.trajectory import Trajectory

PARAMETER, FROZEN, BUFFER = "parameter", "frozen", "buffer"


class Shell(torch.nn.Module):
    """Holds tensors under their names: a network without what it computes.

    Args:
        kinds: "parameter", "frozen" or "buffer" by name, in order.
        dtypes: the dtype that a parameter's numbers are taken as, by name.
    """

    def __init__(self, kinds: Mapping[str, str], dtypes: Mapping[str, torch.dtype]) -> None:
        super().__init__()
        self._kinds, self._dtypes = dict(kinds), dict(dtypes)

    @classmethod
    def of_run(cls, path: Trajectory, dtypes: Mapping[str, torch.dtype]) -> Shell:
        """For the tensors of a run; it holds none yet.

        Args:
            path: the run.
            dtypes: those that frozen parameters are taken as, by name.
        """
        rows = {entry.name: getattr(torch, entry.dtype) for entry in path.layout.parameters}
        return cls(dict.fromkeys(rows, PARAMETER) | path.side_kinds, {**dtypes, **rows})

    def hold_last(self, path: Trajectory) -> None:
        """Holds the last state of a run."""
        state = unflatten(torch.from_numpy(path[-1]), path.layout)
        self.hold({**state, **own_sides(path)})

    def hold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Holds these tensors from now on, without copying them."""
        for name, kind in self._kinds.items():
            if name not in tensors:
                continue
            tensor = tensors[name]
            dtype = self._dtypes.get(name, tensor.dtype)
            if kind == BUFFER:
                self._put(name, tensor, "_buffers")
            else:
                held = tensor.to(dtype)
                is_trained = kind == PARAMETER
                self._put(name, torch.nn.Parameter(held, is_trained), "_parameters")

    def _put(self, name: str, tensor: torch.Tensor, table: str) -> None:
        *parents, last = name.split(".")
        module: torch.nn.Module = self
        for parent in parents:
            if (child := module._modules.get(parent)) is None:
                child = module._modules[parent] = torch.nn.Module()
            module = child
        getattr(module, table)[last] = tensor

    def forward(self) -> None:
        """Refuses, as nothing is known of what the network computes."""
        raise ModelError("checkpoints alone compute nothing; give an objective with the network")


def own_sides(path: Trajectory) -> dict[str, torch.Tensor]:
    """The side tensors of a run's last state that it holds itself."""
    contents = store.read_contents(path.directory, store.read_header(path.directory))
    return contents.sides.tensors(int(contents.steps[-1]), False, int(contents.keys[-1]))
