"""Loads a surface of another program's, from HDF5."""

import h5py
import numpy as np

import losspath

with h5py.File("surface.h5", "w") as file:
    file["xcoordinates"], file["ycoordinates"] = np.arange(3.0), np.arange(2.0)
    file["train_loss"] = np.arange(6.0).reshape(3, 2)
surface = losspath.load_h5_surface("surface.h5")
assert surface.loss.tolist() == [[0, 1, 2], [3, 4, 5]]
losspath.plot_surface(surface).savefig("loaded.png")
