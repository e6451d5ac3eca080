"""How callbacks count."""

from collections.abc import Callable

__all__ = ["IterationOf"]

# Training steps done at the end of an epoch: an epoch is one validation interval, and
# the last one may be shorter.
IterationOf = Callable[[int], int]
