"""What tells one objective from another, for results that are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.evaluation.base import BaseObjective
from losspath.evaluation.data import Part, bytes_of
from losspath.evaluation.evaluator import Evaluator, functions_of
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.settings import lasting, settings_of_loss, settings_of_model
from losspath.files import digest_of

# Enough to tell one function from another: the samples have a digest of their own.
_SAMPLES = 1000


def fingerprint(
    objective: BaseObjective,
    parameters: npt.NDArray[Any],
    sides: Iterable[Sides | None] | None = None,
) -> list[object]:
    """What tells an objective from another at some parameters, as JSON values.

    Samples, layout and name do not say what the model computes between them, nor what a loss
    function of one's own does; its values do, and what code does and is set to.

    Args:
        objective: the objective.
        parameters: (P,) or (k, P) parameter vectors to evaluate.
        sides: side tensors of each.
    """
    vectors = np.atleast_2d(parameters)
    tables = list(sides) if sides is not None else [None] * len(vectors)
    evaluator = Evaluator(objective)
    parts = _probed_parts(objective)
    functions = functions_of(objective)
    settings = [settings_of_loss(function) for function in functions]
    values = [
        evaluator.evaluate(vector, sides=table, parts=parts)
        for vector, table in zip(vectors, tables, strict=True)
    ]
    return [
        objective.samples_digest,
        objective.name,
        objective.batch_size,
        objective.layout.to_json(),
        objective.buffers or "model",
        objective.base_key,
        digest_of(*(bytes_of(buffer) for buffer in objective.model.buffers())),
        [[value.loss, value.accuracy, dict(value.metrics)] for value in values],
        *(
            setting
            for function, before in zip(functions, settings, strict=True)
            for setting in lasting(before, settings_of_loss(function))
        ),
        *settings_of_model(objective.model),
    ]


def _probed_parts(objective: BaseObjective) -> list[Part]:
    """Parts spread over the data, of so many samples that functions can be told apart."""
    parts = objective.data.parts()
    count = max(1, -(-_SAMPLES * len(parts) // max(len(objective), 1)))
    chosen = np.linspace(0, len(parts) - 1, min(count, len(parts))).round().astype(int)
    return [parts[number] for number in dict.fromkeys(chosen.tolist())]
