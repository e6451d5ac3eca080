"""An affine map of features whose parameters are read in each call."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors.reuse import Live

__all__ = ["FeatureAffine"]


class FeatureAffine(Live, tfb.Bijector):
    """Scales and shifts the entries of the last axis.

        inverse: x = exp(log_scale) * y + shift
        forward: y = exp(-log_scale) * (x - shift)
        inverse log-det: sum of log_scale

    `tfb.Scale` and `tfb.Shift` copy a Keras variable when they are made, and go on with
    that value when the variable has another one.

    Args:
        parameters: Returns `(log_scale, shift)`, `[n]` each; called each time.
        validate_args: As in every TFP bijector.
        name: Name of the operations.

    Raises:
        ValueError: If values have another number of features than the parameters, when
            it is called.

    Example:
        >>> log_scale = keras.Variable(tf.zeros([2]))
        >>> doubled = FeatureAffine(lambda: (log_scale, tf.zeros([2])))
        >>> log_scale.assign(tf.math.log([2.0, 2.0]))
        >>> doubled.inverse([[1.0, 3.0]]).numpy()
        array([[2., 6.]], dtype=float32)
    """

    def __init__(
        self,
        parameters: Callable[[], tuple[Any, Any]],
        validate_args: bool = False,
        name: str = "feature_affine",
    ):
        arguments = dict(locals())
        self._affine_parameters = parameters
        super().__init__(
            forward_min_event_ndims=1,
            is_constant_jacobian=True,
            validate_args=validate_args,
            parameters=arguments,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, x):
        log_scale, shift = self._parameters_for(x)
        return tf.exp(-log_scale) * (x - shift)

    def _inverse(self, y):
        log_scale, shift = self._parameters_for(y)
        return tf.exp(log_scale) * y + shift

    def _inverse_log_det_jacobian(self, y):
        return tf.reduce_sum(self._parameters_for(y)[0])

    def _forward_log_det_jacobian(self, x):
        return -tf.reduce_sum(self._parameters_for(x)[0])

    def _parameters_for(self, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The parameters as tensors, after a check against what they are for."""
        log_scale, shift = map(tf.convert_to_tensor, self._affine_parameters())
        # Broadcast, one of them would count once in the log-determinant.
        entries = values.shape[-1:]
        if not all(
            part.shape.is_compatible_with(entries) for part in (log_scale, shift)
        ):
            raise ValueError(
                f"{self.name} scales a last axis of {log_scale.shape[-1:].as_list()} "
                f"entries, and shifts {shift.shape[-1:].as_list()}, got values of "
                f"shape {values.shape.as_list()}; give both for each entry."
            )
        return log_scale, shift
