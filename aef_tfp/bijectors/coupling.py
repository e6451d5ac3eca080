"""Affine couplings of a pair: the encoder and the decoder of an AEF."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors.reuse import Live, OncePerGraph

__all__ = ["PairCoupling", "decoder_coupling", "encoder_coupling"]


class PairCoupling(Live, tfb.Bijector):
    """Shifts and scales one part of a pair by functions of the other part.

    With `transformed=1` (and likewise with the roles swapped for `transformed=0`):

        forward: (a, b) -> (a, loc(a) + scale(a) * b)
        inverse: (a, b) -> (a, (b - loc(a)) / scale(a))
        forward log-det: sum_i log scale(a)_i

    Each direction costs one pass through the conditioner, log-determinant included.

    Args:
        conditioner: Callable from the untouched part `[..., k]` to `(loc, scale)`, each
            broadcastable to `[..., j]` with a last axis of size `j`; `scale > 0`.
        transformed: Index of the part that is changed, 0 or 1.
        validate_args: As in every TFP bijector.
        name: Name of the operations.

    Raises:
        ValueError: If `transformed` is neither 0 nor 1.

    Example:
        >>> coupling = PairCoupling(lambda a: (a, 2.0 * tf.ones_like(a)), transformed=1)
        >>> [part.numpy() for part in coupling.forward([[1.0], [3.0]])]
        [array([1.], dtype=float32), array([7.], dtype=float32)]
    """

    def __init__(
        self,
        conditioner: Callable[[Any], tuple[Any, Any]],
        transformed: int,
        validate_args: bool = False,
        name: str = "pair_coupling",
    ):
        parameters = dict(locals())
        if transformed not in (0, 1):
            raise ValueError(f"transformed must be 0 or 1, got {transformed!r}.")
        self._conditioner = OncePerGraph(conditioner)
        self._transformed = transformed
        super().__init__(
            forward_min_event_ndims=[1, 1],
            inverse_min_event_ndims=[1, 1],
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, pair):
        loc, scale = self._condition(pair)
        return self._replace(pair, loc + scale * pair[self._transformed])

    def _inverse(self, pair):
        loc, scale = self._condition(pair)
        return self._replace(pair, (pair[self._transformed] - loc) / scale)

    def _forward_log_det_jacobian(self, pair):
        _, scale = self._condition(pair)
        return tf.reduce_sum(tf.math.log(scale), axis=-1)

    def _inverse_log_det_jacobian(self, pair):
        # The conditioning part is the same on both sides.
        return -self._forward_log_det_jacobian(pair)

    def _condition(self, pair):
        return self._conditioner(pair[1 - self._transformed])

    def _replace(self, pair, value):
        return [pair[0], value] if self._transformed else [value, pair[1]]


def decoder_coupling(decoder: Callable) -> PairCoupling:
    """Decoder of eq. 5: (z, deviations) -> (z, f(z) + sigma(z) * deviations).

    Args:
        decoder: Callable from latents `[..., d]` to `(f, sigma)`, each `[..., m]`.
    """
    return PairCoupling(decoder, transformed=1, name="decoder_coupling")


def encoder_coupling(encoder: Callable) -> tfb.Bijector:
    """Encoder of eq. 4 and 9, inverted: (z, shell) -> ((z - g_m) / g_s, shell).

    In the direction data to base it is the paper's z = g_m(shell) + g_s(shell) * u.

    Args:
        encoder: Callable from the shell `[..., m]` to `(g_m, g_s)`, each `[..., d]`.
    """
    return tfb.Invert(PairCoupling(encoder, transformed=0), name="encoder_coupling")
