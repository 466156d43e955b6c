"""Names, and the flat vector that a model's parameters become, and back.

A row is the trainable parameters in ``named_parameters()`` order, under canonical names; the
`Layout` is the table of what lies where. What else a model's outputs depend on, its buffers and
frozen parameters, are `side_tensors`.
"""

from losspath.parameters.layout import Entry, Layout, Taken, check_taken, dtype_name, layer_of
from losspath.parameters.memory import positions_in
from losspath.parameters.names import (
    is_torchs,
    matches,
    named_buffers,
    named_modules,
    named_parameters,
    prefix_in,
    unwrapped,
    version_of,
    without_wrappers,
    wrapped_in,
)
from losspath.parameters.sharded import (
    class_of,
    is_sharded,
    local_part,
    local_parts,
    ranks_of,
    reshard,
    whole,
)
from losspath.parameters.sides import SideTensor, side_tensors
from losspath.parameters.vectors import (
    copy_into,
    digest_of_numbers,
    flat,
    flatten_parameters,
    in_order,
    load_parameters,
    unflatten,
)

__all__ = [
    "Entry",
    "Layout",
    "SideTensor",
    "Taken",
    "check_taken",
    "class_of",
    "copy_into",
    "digest_of_numbers",
    "dtype_name",
    "flat",
    "flatten_parameters",
    "in_order",
    "is_sharded",
    "is_torchs",
    "layer_of",
    "load_parameters",
    "local_part",
    "local_parts",
    "matches",
    "named_buffers",
    "named_modules",
    "named_parameters",
    "positions_in",
    "prefix_in",
    "ranks_of",
    "reshard",
    "side_tensors",
    "unflatten",
    "unwrapped",
    "version_of",
    "whole",
    "without_wrappers",
    "wrapped_in",
]
