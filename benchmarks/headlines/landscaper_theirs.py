"""The loss along the Hessian's first eigenvectors, as the quick start of landscaper measures it."""

from landscaper import LossLandscape, PyHessian
from shared import inputs, keep, model, steps, targets
from torch import nn

criterion = nn.CrossEntropyLoss()
data = list(zip(inputs.split(250), targets.split(250), strict=True))


def mean_loss(model, data):
    total = 0.0
    for sample, label in data:
        total += criterion(model.forward(sample), label)
    return total / len(data)


hessian = PyHessian(model, criterion, data, "cpu")
eigenvalues, directions = hessian.eigenvalues(top_n=2)
landscape = LossLandscape.compute(
    model, data, directions, mean_loss, steps=steps, dim=2, device="cpu"
)
landscape.show_contour(show=False).savefig("surface.png")
keep(loss=landscape.loss, x=landscape.ranges[0], y=landscape.ranges[1], eigenvalues=eigenvalues)
