"""A bijector of the user's over vectors, as the chain needs it."""

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors.reuse import Live

__all__ = ["VectorBijector"]


class VectorBijector(Live, tfb.Bijector):
    """Gives a bijector one batch axis, and no value of older weights.

    Importance sampling has several batch axes, shape inference none, while networks
    want one. And TFP takes two bijectors of the same variables for equal, so that its
    cache answers for weights that have changed.

    Args:
        bijector: Any bijector over vectors `[n, d]`.
        flatten: Calls a function of `[n, d]` with `[*batch, d]`.
        around: Makes the context that each call of the bijector stands in.
        name: Name of the operations.
    """

    def __init__(
        self,
        bijector: tfb.Bijector,
        flatten: Callable[[Callable[[Any], Any], Any], Any],
        around: Callable[[], Any] = contextlib.nullcontext,
        name: str = "vector_bijector",
    ):
        self._bijector = bijector
        self._flatten = flatten
        self._around = around
        super().__init__(
            forward_min_event_ndims=1,
            dtype=bijector.dtype,
            parameters={"instance": object()},
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def copy(self, **overrides):
        """Returns a bijector of the same arguments, but for those given."""
        # TFP takes the parameters, which stand for no arguments here.
        own = {
            "bijector": self._bijector,
            "flatten": self._flatten,
            "around": self._around,
            "name": self.name,
        }
        return VectorBijector(**{**own, **overrides})

    @property
    def bijector(self) -> tfb.Bijector:
        """The bijector within."""
        return self._bijector

    def _forward(self, x):
        return self._called(self._bijector.forward, x)

    def _inverse(self, y):
        return self._called(self._bijector.inverse, y)

    def _forward_log_det_jacobian(self, x):
        return self._called(self._log_det("forward"), x)

    def _inverse_log_det_jacobian(self, y):
        return self._called(self._log_det("inverse"), y)

    def _log_det(self, direction: str) -> Callable[[Any], Any]:
        log_det = getattr(self._bijector, f"{direction}_log_det_jacobian")

        def of_each(x):
            # Constant ones come without a batch axis.
            return tf.broadcast_to(log_det(x, event_ndims=1), tf.shape(x)[:1])

        return of_each

    def _called(self, function, x):
        with self._around():
            return self._flatten(function, x)
