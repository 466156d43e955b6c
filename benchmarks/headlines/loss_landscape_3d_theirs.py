"""The loss along two directions, as the quick start of loss-landscape-3d measures it."""

import numpy as np
from loss_landscape_3d import LossLandscapeCalculator, LossLandscapeVisualizer, data, nn
from shared import directions, inputs, keep, model, steps, targets

dataset = data.TensorDataset(inputs, targets)
dataloader = data.DataLoader(dataset, batch_size=32)
criterion = nn.CrossEntropyLoss()
dir_x, dir_y = directions()
x_coords = np.linspace(-1, 1, steps)
y_coords = np.linspace(-1, 1, steps)
calculator = LossLandscapeCalculator(model, dataloader, criterion)
loss_grid = calculator.calculate(x_coords, y_coords, dir_x, dir_y, center_state=model.state_dict())
visualizer = LossLandscapeVisualizer(x_coords, y_coords, loss_grid)
visualizer.plot_3d_plotly(title="Around the last state", save_path="surface.html")
keep(loss=loss_grid, x=x_coords, y=y_coords)
