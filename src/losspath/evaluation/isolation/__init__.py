"""Evaluating a caller's model without leaving a trace in it.

>>> import torch
>>> from losspath.evaluation.isolation.evaluation_mode import evaluation_mode
>>> model = torch.nn.Dropout()
>>> with evaluation_mode(model):
...     model(torch.ones(3)).tolist()
[1.0, 1.0, 1.0]
>>> model.training
True
"""
