"""The structural similarity of the extra `compare`."""

from own_program import objective

import losspath

if __name__ == "__main__":
    path = losspath.Trajectory("run")
    one, other = (
        losspath.compute_surface(path, objective(), method=method, resolution=9)
        for method in ("pca", "averaged")
    )
    assert losspath.compare_surfaces(one, one).ssim == 1
    assert losspath.compare_surfaces(one, other).ssim < 1
