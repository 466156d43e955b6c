"""How points are evaluated, remembered from one process to the next.

A config decides how sums round. Remembering it makes two runs of one computation on one machine the
same, bit for bit, which two measurements might not.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock

from losspath.errors import LosspathError
from losspath.files import read_document, write_document
from losspath.user_cache import user_cache


@dataclass(frozen=True)
class EngineConfig:
    """How points are evaluated.

    Attributes:
        batch_size: samples that go through all points before the next ones do; 0 for the caller's
            own batches.
        threads: batches under way at once, each on a thread of its own; 1 leaves threads to torch.
        first_layer_group: points whose first layers are computed in one wide call, where the
            points have nothing else in common; 1 for none.
        group_size: points that are evaluated together.
        vmap_size: points that go through the network in one call (`torch.vmap`); 1 for one by one.
            On a GPU, where small kernels are done sooner than they can be launched.
        channels_last: images lie channel by channel at every place, rather than image by image in
            every channel.
        plain: the plain loop over points instead of all this.
        point_seconds: how long a point took when this was measured; 0 where it was not.
    """

    batch_size: int
    threads: int
    first_layer_group: int
    group_size: int
    vmap_size: int = 1
    channels_last: bool = False
    plain: bool = False
    point_seconds: float = 0.0

    def describe(self) -> str:
        """The config in words."""
        if self.plain:
            return "the plain loop"
        batches = f"batches of {self.batch_size}" if self.batch_size else "the given batches"
        words = f"{batches} through {self.group_size} points"
        words += f", {self.threads} at a time" if self.threads > 1 else ""
        words += f", {self.vmap_size} points in one call" if self.vmap_size > 1 else ""
        words += ", channels last" if self.channels_last else ""
        together = self.first_layer_group
        return words + (f", first layers of {together} at once" if together > 1 else "")


# Longer than measuring takes for any but the slowest networks.
_LOCK_SECONDS = 60.0

_known: dict[str, EngineConfig] = {}


def remembered(key: str, measure: Callable[[], EngineConfig]) -> EngineConfig:
    """The config made before for a computation, or else a new one, which is remembered.

    Args:
        key: identifies the computation and the machine.
        measure: makes the config.
    """
    if key in _known:
        return _known[key]
    directory = user_cache()
    file = directory / f"config-{key[:16]}.json"
    lock = filelock.FileLock(directory / f"config-{key[:16]}.lock", timeout=_LOCK_SECONDS)
    with contextlib.ExitStack() as held:
        # A cache that cannot be used is no reason to stop.
        with contextlib.suppress(OSError, filelock.Timeout):
            directory.mkdir(parents=True, exist_ok=True)
            # Processes that start together wait for the first one's measurement.
            held.enter_context(lock)
        config = _load(file)
        if config is None:
            config = measure()
            with contextlib.suppress(LosspathError, OSError):
                write_document(file, dataclasses.asdict(config))
    _known[key] = config
    return config


def _load(file: Path) -> EngineConfig | None:
    try:
        return EngineConfig(**read_document(file))
    except (LosspathError, TypeError):
        return None
