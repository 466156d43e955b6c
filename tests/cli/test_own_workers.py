"""A run of one's own, evaluated by other processes."""

import numpy as np
import pytest
import torch

import losspath

OWN = """
import torch
from losspath import Objective

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)

def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)

def objective():
    torch.manual_seed(0)
    return Objective(Mine(), torch.randn(20, 3), torch.randint(2, (20,)), loss)
"""


@pytest.mark.slow
def test_what_a_file_of_ones_own_defines_reaches_the_processes(call, tmp_path):
    (tmp_path / "own_objective.py").write_text(OWN)
    torch.manual_seed(1)
    model = torch.nn.Sequential()
    model.layer = torch.nn.Linear(3, 2)
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for _ in range(8):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
            recorder.record(1.0)
    source = f"{tmp_path / 'own_objective.py'}:objective"
    arguments = ("surface", tmp_path / "run", "--objective", source, "--resolution", "7")
    assert call(*arguments, "--out", tmp_path / "one")[0] == 0
    code, out, err = call(*arguments, "--out", tmp_path / "two", "--processes", "2", "--explain")
    assert code == 0, err
    assert "by workers" in out
    (one,), (two,) = (
        (tmp_path / name / "results").glob("surface-*.npz") for name in ("one", "two")
    )
    np.testing.assert_allclose(
        losspath.Surface.load(two).loss, losspath.Surface.load(one).loss, rtol=1e-5
    )
