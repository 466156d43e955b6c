"""The diagonal of the empirical Fisher matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from losspath.evaluation.derivatives import Derivatives

Floats = npt.NDArray[np.float64]


class Fisher(Derivatives):
    """Squares of an objective's gradients at one parameter vector; see `Derivatives`."""

    @torch.inference_mode(False)
    def diagonal(self) -> Floats:
        """(P,) the diagonal of the empirical Fisher matrix, summed over all samples.

        It is the sum over the data's parts of the squared gradients of their summed losses, about
        the mean of these: where the mean is zero, as where training has ended, that is the sum of
        the single samples' squares on average, whatever the size of a part.
        """
        total = torch.zeros(len(self._vector), dtype=torch.float64, device="cpu")
        squares, count = torch.zeros_like(total), 0
        with self._totals() as totals:
            for loss, _ in totals:
                gradient = self._differentiated(loss).detach().cpu()
                total += gradient
                squares += gradient.square()
                count += 1
        about_mean = (squares - total.square() / count).clamp(min=0.0) * count / max(1, count - 1)
        found: Floats = about_mean.numpy()
        return found
