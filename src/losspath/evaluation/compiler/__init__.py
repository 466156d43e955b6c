"""A model's forward pass as a graph of calls, split into what all points share and what each has.

>>> import torch
>>> from losspath.evaluation.compiler.plan import make_plan
>>> from losspath.evaluation.compiler.tape import record
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
>>> tape = record(model, torch.ones(5, 4))
>>> sorted(tape.parameters.values())
['0.bias', '0.weight', '2.bias', '2.weight']
>>> make_plan(tape, changing={"2.weight"}).calls  # once a batch, and at every point
(2, 0)
"""
