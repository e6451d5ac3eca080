"""Between pixel values and real numbers."""

import numbers

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

__all__ = ["PixelLogit"]


class PixelLogit(tfb.Bijector):
    """Squashes real numbers to pixel values: the inverse of the logit of eq. 19.

    Forward and inverse act on each entry alone:

        x = (sigmoid(y) - lambda) / (1 - 2 lambda)
        y = logit(lambda + (1 - 2 lambda) x)
        log |dx/dy| = log sigmoid(y) + log sigmoid(-y) - log(1 - 2 lambda)

    Pixel values are clipped to the open interval (0, 1) of the float type in both
    directions, because rounding turns samples at the far ends into exactly 0 or 1, and
    with `lambda = 0` the logit of those is infinite. What lies outside of [0, 1] has no
    logit, and becomes NaN. `1 - x` is formed before the logarithm, so that bright
    pixels keep the precision that dark ones have.

    Args:
        logit_lambda: The paper's lambda, `0 <= logit_lambda < 0.5`. It keeps
            dequantized images away from infinity: 1e-6 for MNIST-like data, 0.05 for
            colour.
        validate_args: As in every TFP bijector.
        name: Name of the operations.

    Raises:
        ValueError: If `logit_lambda` lies outside its range, or, when it is called, if
            values are neither of float16, float32 nor float64.

    Example:
        >>> PixelLogit(0.05).forward([0.0]).numpy()
        array([0.5], dtype=float32)

    Reference: Papamakarios et al., "Masked Autoregressive Flow for Density
    Estimation" (arXiv:1705.07057), appendix D.
    """

    def __init__(
        self,
        logit_lambda: float = 1e-6,
        validate_args: bool = False,
        name: str = "pixel_logit",
    ):
        parameters = dict(locals())
        is_number = isinstance(logit_lambda, numbers.Real)
        if not is_number or not 0.0 <= logit_lambda < 0.5:
            raise ValueError(
                f"logit_lambda must lie in [0, 0.5), got {logit_lambda!r}; "
                "use 1e-6 for MNIST-like images, 0.05 for colour images."
            )
        self._logit_lambda = float(logit_lambda)
        super().__init__(
            forward_min_event_ndims=0,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    @property
    def logit_lambda(self) -> float:
        """The paper's lambda."""
        return self._logit_lambda

    @property
    def _log_width(self) -> float:
        return float(np.log1p(-2.0 * self._logit_lambda))

    def _forward(self, y):
        _check_type(y)
        return _clip_to_open_unit_interval(
            (tf.sigmoid(y) - self._logit_lambda) / (1.0 - 2.0 * self._logit_lambda)
        )

    def _inverse(self, x):
        log_p, log_q = self._log_odds_parts(x)
        return log_p - log_q

    def _forward_log_det_jacobian(self, y):
        _check_type(y)
        return -tf.nn.softplus(y) - tf.nn.softplus(-y) - self._log_width

    def _inverse_log_det_jacobian(self, x):
        log_p, log_q = self._log_odds_parts(x)
        return self._log_width - log_p - log_q

    def _log_odds_parts(self, x):
        _check_type(x)
        clipped = _clip_to_open_unit_interval(x)
        x = tf.where((x >= 0.0) & (x <= 1.0), clipped, np.nan)
        width = 1.0 - 2.0 * self._logit_lambda
        return (
            tf.math.log(self._logit_lambda + width * x),
            tf.math.log(self._logit_lambda + width * (1.0 - x)),
        )


def _check_type(values):
    if values.dtype not in (tf.float16, tf.float32, tf.float64):
        raise ValueError(
            "PixelLogit takes values of float32, float64 or float16, got "
            f"{values.dtype.name}; divide integers by their number of levels."
        )


def _clip_to_open_unit_interval(x):
    limits = np.finfo(x.dtype.as_numpy_dtype)
    return tf.clip_by_value(x, limits.tiny, 1.0 - limits.epsneg)
