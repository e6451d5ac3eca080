"""The unit of the field: bits per dimension."""

from typing import Any

import numpy as np

__all__ = ["bits_per_dim"]


def bits_per_dim(log_prob: Any, event_size: int, num_levels: int | None = None) -> Any:
    """Converts log-densities to bits per dimension.

    -log_prob / (event_size * log 2) + log2(num_levels). The second term belongs to
    dequantized data: a level of width 1 / num_levels with density p has probability
    p / num_levels. Without it, the value depends on how the pixels were scaled.

    Args:
        log_prob: Nats per event, any shape.
        event_size: Number of entries of one event, N.
        num_levels: Number of values of the integer data; None for continuous data.

    Returns:
        Bits per dimension, shaped like `log_prob`.

    Example:
        >>> bits_per_dim(0.0, event_size=784, num_levels=256)  # uniform density
        8.0
    """
    offset = 0.0 if num_levels is None else float(np.log2(num_levels))
    return -log_prob / (event_size * float(np.log(2.0))) + offset
