"""The path's plane and grid, and the parameters that a blend of states gives at a point."""
