"""Methods that a model has or lacks by what it was made of."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["available", "available_if"]


class _Available:
    """A method that is an attribute of some instances only.

    Args:
        method: Of the class, where all see it.
        check: Of an instance: whether it has the method.
    """

    def __init__(self, method: Callable[..., Any], check: Callable[[Any], bool]):
        functools.update_wrapper(self, method)  # type: ignore[arg-type]
        self._method = method
        self._check = check

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self._method
        if not self._check(instance):
            # Python asks the instance's `__getattr__` next, which explains.
            raise AttributeError(self._method.__name__)
        return self._method.__get__(instance, owner)


def available_if(check: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Returns a decorator for methods, as scikit-learn's of the same name.

    Args:
        check: Of an instance: whether it has the method. Otherwise asking for it is an
            `AttributeError`.
    """
    return lambda method: _Available(method, check)


def available(instance: Any, names: Iterable[str]) -> list[str]:
    """Returns those of an instance's names that it does not lack."""
    static = functools.partial(inspect.getattr_static, type(instance), default=None)
    return [
        name
        for name in names
        if not isinstance(static(name), _Available) or hasattr(instance, name)
    ]
