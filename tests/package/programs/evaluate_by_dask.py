"""A surface by workers of the extra `dask`, next to that of one process."""

import distributed
import numpy as np
from own_program import objective

import losspath

if __name__ == "__main__":
    path, options = losspath.Trajectory("run"), {"method": "averaged", "resolution": 5}
    plain = losspath.compute_surface(path, objective(), **options)
    with (
        distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        spread = losspath.compute_surface(
            path, objective(), executor=client.get_executor(), **options
        )
    np.testing.assert_allclose(spread.loss, plain.loss, rtol=1e-5)
