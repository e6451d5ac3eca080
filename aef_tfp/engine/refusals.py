"""Errors for the user out of code that TensorFlow runs."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

__all__ = ["Refusals"]


class Refusals:
    """Keeps what a check said while TensorFlow called it, to be raised in its place.

    TensorFlow gives an account of many lines of an error in a call back into Python, or
    in a generator that it reads.

    Example:
        >>> refusals = Refusals()
        >>> with refusals.telling():
        ...     run(iterator)  # somewhere in it: with refusals.kept(): check(batch)
    """

    def __init__(self) -> None:
        self._last: ValueError | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps a `ValueError` that passes."""
        try:
            yield
        except ValueError as error:
            self._last = error
            raise

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Raises what was kept in place of TensorFlow's account of it."""
        try:
            yield
        except tf.errors.OpError:
            refusal, self._last = self._last, None
            if refusal is None:
                raise
            raise refusal from None

    def forget(self) -> None:
        """Forgets what was kept and raised otherwise."""
        self._last = None
