"""What one data point of a model is: shape, levels, range."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from aef_tfp.models.arguments import checked_event_shape, shape_text
from aef_tfp.models.noise import uniform_noise

__all__ = ["EventSpec"]

# Events that tell levels from continuous data.
_LEVEL_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class EventSpec:
    """Shape and range of a model's events, with the checks that follow from them.

    Args:
        shape: `(H, W, C)` or `(n,)`.
        num_levels: Number of values of integer events; None for continuous ones.
        logit_lambda: Lambda of the pixel logit; None if any real number may occur.
        dtype: Float type of the densities.
    """

    shape: tuple[int, ...]
    num_levels: int | None
    logit_lambda: float | None
    dtype: str

    @classmethod
    def of(
        cls, shape: Sequence[int], num_levels: Any, logit_lambda: Any, dtype: str
    ) -> "EventSpec":
        """Resolves `"auto"`, as `GenerativeModel` describes it.

        Raises:
            ValueError: If the shape or `num_levels` is out of range.
        """
        shape = checked_event_shape(shape)
        is_image = len(shape) == 3
        if num_levels == "auto":
            num_levels = 256 if is_image else None
        elif num_levels is not None and num_levels < 2:
            raise ValueError(
                f"num_levels must be at least 2 or None, got {num_levels!r}."
            )
        if logit_lambda == "auto":
            gray = shape[-1] == 1
            logit_lambda = (1e-6 if gray else 0.05) if is_image else None
        return cls(shape, num_levels, logit_lambda, dtype)

    @property
    def size(self) -> int:
        """Number of entries, N."""
        return int(np.prod(self.shape))

    def dequantize(self, x: Any, seed: Any) -> tf.Tensor:
        """Makes integer events continuous: (x + U[0, 1)) / num_levels.

        Floats pass as they are. Values out of range become NaN, so that in a compiled
        training step the guard against non-finite updates sees them.

        Args:
            x: `[batch, *shape]`, integers below `num_levels` or floats.
            seed: Stateless seed, `[2]`, or None for the middle of each level.
        """
        x = tf.convert_to_tensor(x)
        values = tf.cast(x, self.dtype)
        if not x.dtype.is_floating and self.num_levels is not None:
            noise = 0.5
            if seed is not None:
                noise = uniform_noise(tf.shape(x), seed, values.dtype)
            values = (values + noise) / self.num_levels
        if self.logit_lambda is None:
            return values
        return tf.where((values >= 0.0) & (values <= 1.0), values, np.nan)

    def check_training_data(self, name: str, x: Any, y: Any = None) -> None:
        """Checks what `fit` is given, under the name of the argument.

        Args:
            name: What the message calls the data.
            x: Array, tensor or `tf.data.Dataset` of batches.
            y: Must be None.

        Raises:
            ValueError: If there are labels, or `x` does not fit.
        """
        if isinstance(x, list):
            raise ValueError(
                f"{name}: the model takes one array of images, got a list of {len(x)}; "
                "join it with np.stack(images)."
            )
        if y is not None or isinstance(x, tuple):
            raise ValueError(
                f"{name}: the model takes images alone, got a second array (labels or "
                "targets); pass the images only."
            )
        if isinstance(x, (np.ndarray, tf.Tensor)):
            self.checked(x)
            return
        spec = getattr(x, "element_spec", None)
        if isinstance(spec, (tuple, list, dict)) and len(spec) != 1:
            raise ValueError(
                f"{name}: the model takes images alone, got a data set of "
                f"{type(spec).__name__}s of {len(spec)}; drop the labels, e.g. "
                "dataset.map(lambda image, label: image)."
            )
        for leaf in tf.nest.flatten(spec):
            if isinstance(leaf, tf.TensorSpec):
                self.check_shape(leaf.shape)

    def check_is_dequantized(self, name: str, x: Any) -> None:
        """Refuses floats that are levels divided by the largest one.

        Their density has no bound: a model that puts narrow peaks on the few values
        that occur reaches any likelihood.

        Args:
            name: What the message calls the data.
            x: Array, tensor or anything else, which passes.

        Raises:
            ValueError: If all of the first images' values are such.
        """
        if self.num_levels is None or not isinstance(x, (np.ndarray, tf.Tensor)):
            return
        values = np.asarray(x[:_LEVEL_EXAMPLES])
        if values.dtype.kind != "f" or not values.size:
            return
        for count in (self.num_levels - 1, self.num_levels):
            scaled = values.astype(np.float64) * count
            # Far below the share of a level, far above what float32 rounds.
            if np.abs(scaled - np.rint(scaled)).max() < 1e-3:
                raise ValueError(
                    f"{name}: the images are integers divided by {count}, whose "
                    "density has no bound, so bits per dimension would mean nothing; "
                    "pass the integers themselves (the model dequantizes them), or "
                    "build the model with num_levels=None if these are real numbers."
                )

    def check_shape(self, shape: Any) -> None:
        """Checks a batch's shape; raises a ValueError in one line."""
        expected = tf.TensorShape([None, *self.shape])
        if not expected.is_compatible_with(shape):
            raise ValueError(
                f"The model takes events of shape "
                f"[batch, {', '.join(map(str, self.shape))}], got "
                f"{shape_text(shape)}; add the batch axis (dataset.batch(64), "
                "image[None]) or the channel axis (images[..., None]), or pass images "
                "where labels are."
            )

    def checked(self, x: Any) -> tf.Tensor:
        """Returns events as a tensor after a check of shape, type and range.

        Inside a `tf.function` there are no values to check; `dequantize` makes those
        out of range NaN.

        Raises:
            ValueError: If they do not fit, in one line.
        """
        x = tf.convert_to_tensor(x)
        self.check_shape(x.shape)
        if x.dtype.is_bool or x.dtype.is_complex or x.dtype == tf.string:
            raise ValueError(f"Events must be integers or floats, got {x.dtype.name}.")
        if not tf.executing_eagerly() or tf.size(x) == 0:
            return x
        low, high = float(tf.reduce_min(x)), float(tf.reduce_max(x))
        if x.dtype.is_floating:
            if not np.isfinite(low + high):
                bad = int(tf.reduce_sum(tf.cast(~tf.math.is_finite(x), tf.int32)))
                raise ValueError(f"Events must be finite, got {bad} NaN or infinite.")
            if self.logit_lambda is not None and (low < 0.0 or high > 1.0):
                raise ValueError(
                    f"Float images must lie in [0, 1], got values from {low:g} to "
                    f"{high:g}; pass integers, e.g. images.astype('uint8'): the model "
                    "dequantizes them."
                )
        elif self.num_levels is not None and (low < 0 or high >= self.num_levels):
            raise ValueError(
                f"Integer events must lie in 0 ... {self.num_levels - 1} (num_levels = "
                f"{self.num_levels}), got values from {low:g} to {high:g}."
            )
        return x
