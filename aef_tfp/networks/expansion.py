"""What a layer is made of, for a summary that shows it."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from aef_tfp.networks.switch import Switch

__all__ = ["Expandable", "expanding"]

_IS_ON = Switch("expanding")


def expanding(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, `Expandable` layers show their parts as `layers`.

    Args:
        is_on: Whether they do.
    """
    return _IS_ON.set(is_on)


class Expandable:
    """A Keras layer that can show its parts as a Keras model does (mixin).

    Only while `expanding`: Keras stores the weights of all attributes that it finds,
    under their names, and a file should not depend on a second name for the same parts.
    """

    @property
    @abstractmethod
    def _parts(self) -> Sequence[Any]:
        """The layers that it is made of, in the order to be shown in."""

    @property
    def layers(self) -> list[Any]:
        """The layers that it is made of."""
        if not _IS_ON:
            raise AttributeError(f"{type(self).__name__} has no attribute 'layers'")
        return list(self._parts)
