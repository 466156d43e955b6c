"""Many parameter vectors on the same data: how they are evaluated, measured and verified.

>>> import numpy as np, torch
>>> import torch.nn.functional as F
>>> from losspath import Objective
>>> from losspath.evaluation.execution.engine import Engine
>>> from losspath.evaluation.execution.points import Rows
>>> x = torch.arange(6.0)[:, None]
>>> objective = Objective(torch.nn.Linear(1, 1, bias=False), x, 2 * x, F.mse_loss)
>>> points = Rows(np.array([[2.0], [3.0]]))
>>> found = [pair for pairs in Engine(objective).evaluate(points) for pair in pairs]
>>> [round(evaluation.loss, 3) for _, evaluation in found]  # 0, and the mean of x²
[0.0, 9.167]
"""
