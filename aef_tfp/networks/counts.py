"""The check of a number that counts something."""

from typing import Any

import numpy as np

__all__ = ["checked_count"]


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """Returns an integer argument after a check.

    Raises:
        ValueError: If `value` is not an integer of at least `least`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}.")
    return int(value)
