"""Whether an objective is well defined, and that of the model as its owner uses it."""
