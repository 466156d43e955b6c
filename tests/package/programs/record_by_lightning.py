"""The callback of the extra `lightning`, in a Trainer."""

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from own_program import data, flat, network
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import losspath
from losspath.lightning import RecorderCallback


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network()

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.cross_entropy(self.network(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


if __name__ == "__main__":
    module = Module()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[RecorderCallback("by-lightning")],
    )
    trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=20))
    path = losspath.Trajectory("by-lightning")
    assert (len(path), path.closed) == (7, True)
    np.testing.assert_array_equal(path[-1], flat(module))
