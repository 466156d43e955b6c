"""What FSDP2 saves in two processes is imported as the whole tensors were."""

import subprocess
import sys

import numpy as np
import pytest

from losspath import import_checkpoints

PROGRAM = """
import os
import sys
import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
mesh = init_device_mesh("cpu", (2,))
for layer in model:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.Adam(model.parameters(), 0.05)
inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(dist.get_rank()))
for step in range(1, 4):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
    weights, moments = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": moments, "step": step}
    dcp.save(content, checkpoint_id=f"{sys.argv[1]}/saved/step_{step}")
    whole = [parameter.full_tensor() for parameter in model.parameters()]
    if dist.get_rank() == 0:
        row = torch.cat([tensor.detach().reshape(-1) for tensor in whole])
        np.save(f"{sys.argv[1]}/{step}.npy", row.numpy())
dist.destroy_process_group()
os._exit(0)  # gloo's threads may abort Python's own end
"""


@pytest.mark.slow
def test_sharded_checkpoints(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "train.py", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    path = import_checkpoints(tmp_path / "saved" / "*", tmp_path / "run")
    assert path.steps.tolist() == [1, 2, 3]
    layout = [(entry.name, entry.shape) for entry in path.layout.parameters]
    assert layout == [
        ("0.bias", (8,)),
        ("0.weight", (8, 6)),
        ("2.bias", (3,)),
        ("2.weight", (3, 8)),
    ]
    for index in range(3):
        whole = np.load(tmp_path / f"{index + 1}.npy")
        parts = np.split(whole, np.cumsum([48, 8, 24]))  # weight, bias, weight, bias
        expected = np.concatenate([parts[1], parts[0], parts[3], parts[2]])
        assert path[index].tobytes() == expected.tobytes()
