"""Numbers about a path: interpolation, step sizes, distances between methods."""
