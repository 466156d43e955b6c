"""Where this user's cache is."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """The directory of what can be made or downloaded again; it need not exist.

    Returns:
        ``losspath`` below XDG_CACHE_HOME where that is set; else below ~/.cache, on macOS below
        ~/Library/Caches, on Windows ``losspath/Cache`` below LOCALAPPDATA.
    """
    named = os.environ.get("XDG_CACHE_HOME", "").strip()
    if named:
        return Path(named) / "losspath"
    # Unlike Path.home(), this never fails: a cache that cannot be used is no reason to stop.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111
    system: str = sys.platform
    if system == "win32":
        local = os.environ.get("LOCALAPPDATA", "").strip()
        return (Path(local) if local else home / "AppData" / "Local") / "losspath" / "Cache"
    return home / ("Library/Caches" if system == "darwin" else ".cache") / "losspath"
