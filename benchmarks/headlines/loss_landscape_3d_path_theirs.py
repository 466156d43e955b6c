"""A training's path on the ground around it, as the README of loss-landscape-3d draws it."""

import numpy as np
from loss_landscape_3d import (
    LossLandscapeCalculator,
    LossLandscapeVisualizer,
    TrajectoryTracker,
    data,
    generate_pca_directions,
    nn,
)
from shared import inputs, keep, steps, targets, training, untrained

tracker = TrajectoryTracker(dir_path="checkpoints")
losses = []
for step, loss in enumerate(training(untrained)):
    tracker.save_checkpoint(untrained, step_or_epoch=step)
    losses.append(loss)
checkpoints = tracker.get_checkpoints()
dir_x, dir_y, center, coordinates = generate_pca_directions(checkpoints, center_index=-1)
xs = [each[0] for each in coordinates]
ys = [each[1] for each in coordinates]
x_coords = np.linspace(min(xs) - 0.5, max(xs) + 0.5, steps)
y_coords = np.linspace(min(ys) - 0.5, max(ys) + 0.5, steps)
dataloader = data.DataLoader(data.TensorDataset(inputs, targets), batch_size=32)
calculator = LossLandscapeCalculator(untrained, dataloader, nn.CrossEntropyLoss())
loss_grid = calculator.calculate(x_coords, y_coords, dir_x, dir_y, center)
visualizer = LossLandscapeVisualizer(x_coords, y_coords, loss_grid)
visualizer.plot_3d_plotly(
    trajectory_coords=coordinates,
    trajectory_losses=losses,
    title="The way of the optimiser",
    save_path="path.html",
)
keep(loss=loss_grid, x=x_coords, y=y_coords, center=center, dir_x=dir_x, dir_y=dir_y)
