"""Something that is on within a `with` block, for the code that is traced there."""

import contextlib
import contextvars
from collections.abc import Iterator

__all__ = ["Switch"]


class Switch:
    """Off, but for `with` blocks; each thread and replica has its own state.

    Args:
        name: What it is about.
    """

    def __init__(self, name: str):
        # A context variable: each replica of a strategy traces in a thread of its own.
        self._state = contextvars.ContextVar(name, default=False)

    def __bool__(self) -> bool:
        return self._state.get()

    @contextlib.contextmanager
    def set(self, is_on: bool) -> Iterator[None]:
        """Within it, the switch is on or off; afterwards as before."""
        token = self._state.set(is_on)
        try:
            yield
        finally:
            self._state.reset(token)
