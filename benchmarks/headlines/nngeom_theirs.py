"""A report of a model's geometry, as the quick start of nngeom makes it."""

import nngeom as ng
import torch.nn.functional as F
from shared import inputs, keep, model, targets

wrapped = ng.Model(model, loss_fn=lambda m, b: F.cross_entropy(m(b[0]), b[1]))
report = ng.analyze(wrapped, (inputs, targets), depth="standard")
print(report.summary())
report.to_html("report.html")
keep(sharpness=report.sections["curvature"]["top_eigenvalue"])
