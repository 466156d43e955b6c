"""The saliency of the extra `diagnose`."""

import numpy as np
from own_program import objective

import losspath

if __name__ == "__main__":
    found = losspath.saliency(objective(), losspath.Trajectory("run")[-1], [0, 1])
    assert found.maps
    assert all(np.isfinite(each).all() for each in found.maps.values())
