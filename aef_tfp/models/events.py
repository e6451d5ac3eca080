"""What one data point of a model is: shape, levels, range."""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.arguments import (
    checked_event_shape,
    shape_text,
    type_text,
    with_known_sides,
)
from aef_tfp.engine.examples import refuse_masked, refuse_not_dense, unpack_batch
from aef_tfp.engine.noise import uniform_noise
from aef_tfp.models.units import (
    boundary_share,
    constant_columns,
    few_values,
    lattice_of,
    unbounded_columns,
)

__all__ = ["EventSpec"]

# Events that tell levels from continuous data.
_LEVEL_EXAMPLES = 64

# Exact zeros and ones beyond what rounding of dequantized float32 images makes.
_BOUNDARY_SHARE = 1e-3


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
        """Resolves `"auto"`, as the models describe it.

        Raises:
            ValueError: If the shape or `num_levels` is out of range.
        """
        shape = checked_event_shape(shape)
        is_image = len(shape) == 3
        if isinstance(num_levels, str) and num_levels == "auto":
            num_levels = 256 if is_image else None
        elif num_levels is not None:
            if not isinstance(num_levels, (int, np.integer)) or num_levels < 2:
                raise ValueError(
                    "num_levels must be an integer of at least 2 or None, got "
                    f"{num_levels!r}."
                )
            num_levels = int(num_levels)
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

    def within_range(self, x: tf.Tensor, seed: Any) -> tf.Tensor:
        """Returns noisy events in [0, 1], with a density that is bounded.

        The paper clips. That puts a part of all values on exactly 0 and 1, where a
        model reaches any likelihood. Here clipped values are dequantized like those of
        a noisy image of `num_levels` levels: uniformly within the lowest or the highest
        level, so that bits per dimension are those of such an image, and not negative.
        Without levels, values are reflected at 0 and 1.

        Args:
            x: `[batch, *shape]`, any real numbers.
            seed: Stateless seed, as in `dequantize`.
        """
        if self.logit_lambda is None:
            return x
        if self.num_levels is None:
            return 1.0 - tf.abs(1.0 - tf.math.floormod(x, 2.0))
        depth = uniform_noise(tf.shape(x), seed, x.dtype) / self.num_levels
        x = tf.where(x < 0.0, depth, x)
        return tf.where(x > 1.0, 1.0 - depth, x)

    def check_data(self, name: str, x: Any) -> None:
        """Checks what is known of data before they are used.

        Args:
            name: What the message calls the data.
            x: Array, tensor, data set, or another collection of batches.

        Raises:
            TypeError: If `x` is no data.
            ValueError: If there are labels, or `x` does not fit.
        """
        if isinstance(x, list):
            raise ValueError(
                f"{name}: the model takes one array of images, got a list of {len(x)}; "
                "join it with np.stack(images)."
            )
        if isinstance(x, (np.ndarray, tf.Tensor)):
            self.check(x)
            if not len(x):
                raise ValueError(f"{name}: there are no images, got shape {x.shape}.")
            return
        if isinstance(x, (str, bytes, dict, set)) or not (
            isinstance(x, (Iterable, keras.utils.PyDataset))
        ):
            raise TypeError(
                f"{name}: the model takes an array of images, or a data set or "
                f"generator of batches, got {type(x).__name__}."
            )
        is_empty = (
            int(x.cardinality()) == 0
            if isinstance(x, tf.data.Dataset)
            else isinstance(x, keras.utils.PyDataset) and x.num_batches == 0
        )
        if is_empty:
            raise ValueError(f"{name}: there are no images, got 0 batches.")
        if isinstance(x, keras.utils.PyDataset):
            batch = x[0]
            try:
                unpack_batch(batch)
            except ValueError as error:
                what = str(error).partition(";")[0].removeprefix("The model")
                raise ValueError(
                    f"{name}: the model{what}; return the images alone from "
                    "__getitem__."
                ) from None
        spec = getattr(x, "element_spec", None)
        if isinstance(spec, (tuple, list)) and len(spec) == 1:
            # As `unpack_batch` takes it.
            (spec,) = spec
        if isinstance(spec, dict):
            raise ValueError(
                f"{name}: the model takes images alone, got a data set of dictionaries "
                f"with {', '.join(map(repr, spec))}; take the images out, e.g. "
                "dataset.map(lambda example: example['image'])."
            )
        if isinstance(spec, (tuple, list)):
            kind = type(spec).__name__
            what = f"s in {kind}s" if len(spec) == 1 else f"s of {len(spec)}"
            raise ValueError(
                f"{name}: the model takes images alone, got a data set of "
                f"{kind}{what}; drop labels and weights, e.g. "
                "dataset.map(lambda image, label: image)."
            )
        for leaf in tf.nest.flatten(spec):
            if isinstance(leaf, (tf.RaggedTensorSpec, tf.SparseTensorSpec)):
                raise ValueError(
                    f"{name}: the model takes dense events of one shape, got a data "
                    f"set of {type(leaf).__name__[:-4]}s; resize the images."
                )
            if isinstance(leaf, tf.TensorSpec):
                self.check_shape(leaf.shape)

    def check_density(self, name: str, x: Any) -> None:
        """Refuses floats that stand for integers.

        Their density has no bound: a model that puts narrow peaks on the few values
        that occur reaches any likelihood.

        Args:
            name: What the message calls the data.
            x: Events `[n, ...]`.

        Raises:
            ValueError: If all values that are looked at are such.
        """
        # From all over: the first ones may be blank.
        step = max(1, len(x) // _LEVEL_EXAMPLES)
        values = np.asarray(x[::step][:_LEVEL_EXAMPLES])
        if self.num_levels is None or values.dtype.kind in "biu" or not values.size:
            return
        if values.dtype.itemsize < 4:
            raise ValueError(
                f"{name}: the images are of {values.dtype.name}, which has few values "
                "between 0 and 1, so their density has no bound; pass integers, which "
                "the model dequantizes, or dequantized images of float32."
            )
        lattice = lattice_of(values, self.num_levels)
        if lattice is None:
            count = few_values(values)
            if count is not None:
                raise ValueError(
                    f"{name}: the images share {count} values between 0 and 1, as if a "
                    "function had been applied to integers, so their density has no "
                    "bound and bits per dimension would mean nothing; pass the "
                    "integers from before, and the model dequantizes them."
                )
            return
        levels = round(lattice.per_unit) + (lattice.offset == 0.0)
        where = "" if levels <= self.num_levels else f" to a model of {levels:,} levels"
        raise ValueError(
            f"{name}: the images are integers in disguise, {lattice}, whose density "
            "has no bound, so bits per dimension would mean nothing; pass the integers "
            f"k themselves{where}, and the model dequantizes them."
        )

    def warn_of_unbounded(self, name: str, x: Any) -> None:
        """Warns of data that have a density without a bound, but may be meant.

        Args:
            name: What the message calls the data.
            x: Events, as many as there are at hand, `[n, *shape]`.
        """
        x = np.asarray(x)
        if x.dtype.kind == "f" and self.logit_lambda is not None:
            share = boundary_share(x)
            if share > _BOUNDARY_SHARE:
                warnings.warn(
                    f"{name}: {share:.1%} of the values are exactly 0 or 1, where "
                    "their density has no bound: a model can reach any likelihood "
                    "there; pass integers, or dequantize before you clip.",
                    stacklevel=3,
                )
        # Integers of levels get noise.
        phrases = []
        if self.num_levels is None:
            phrases = unbounded_columns(x, self.dtype)
        elif x.dtype.kind == "f":
            phrases = constant_columns(x)
        for phrase in phrases:
            is_one = phrase.startswith("column ")
            its, it = ("its", "it") if is_one else ("their", "them")
            warnings.warn(
                f"{name}: {phrase}, so {its} density has no bound and the likelihood "
                f"means nothing there; leave {it} out, or add noise of the size of "
                f"{its} measuring error.",
                stacklevel=3,
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

    def check(self, x: Any, *, finite: bool = True) -> None:
        """Checks shape, type and range of events.

        Args:
            x: Array or eager tensor, `[n, *shape]`.
            finite: Whether to refuse NaN and infinite values, too.

        Raises:
            ValueError: If they do not fit, in one line.
        """
        refuse_not_dense("Events", x)
        refuse_masked(x)
        given, x = x, np.asarray(x)
        # Of the half precision types, NumPy knows but one.
        is_float = x.dtype.kind == "f" or x.dtype.name == "bfloat16"
        if not is_float and x.dtype.kind not in "iu":
            raise ValueError(
                "Events must be an array of integers or floats, got "
                f"{type_text(given)}; pass [batch, {', '.join(map(str, self.shape))}]."
            )
        if x.dtype.itemsize > 8:
            raise ValueError(
                "Events must be integers or floats of up to 64 bits, got "
                f"{type_text(given)}; pass images.astype('float64')."
            )
        self.check_shape(x.shape)
        if not x.size:
            return
        low, high = float(np.min(x)), float(np.max(x))
        if not np.isfinite(low + high):
            is_finite = np.isfinite(x)
            if finite:
                bad = np.count_nonzero(~is_finite)
                raise ValueError(f"Events must be finite, got {bad} NaN or infinite.")
            x = x[is_finite]
            low, high = float(np.min(x, initial=1.0)), float(np.max(x, initial=0.0))
        if not is_float and self.num_levels is not None:
            if low < 0 or high >= self.num_levels:
                raise ValueError(
                    f"Integer events must lie in 0 ... {self.num_levels - 1} "
                    f"(num_levels = {self.num_levels}), got values from {low:g} to "
                    f"{high:g}."
                )
        elif self.logit_lambda is not None and (low < 0.0 or high > 1.0):
            raise ValueError(
                f"Float images must lie in [0, 1], got values from {low:g} to "
                f"{high:g}; {self._advice(x, low, high)}."
            )
        elif max(-low, high) > float(np.finfo(self.dtype).max):
            raise ValueError(
                f"Events must be finite in the model's {self.dtype}, got values from "
                f"{low:g} to {high:g}; give them in larger units, or build the model "
                "with dtype='float64'."
            )

    def _advice(self, x: np.ndarray, low: float, high: float) -> str:
        """What to do with values outside of [0, 1]."""
        levels = self.num_levels or 0
        dtype = "uint8" if levels <= 256 else "uint16"
        # Keras's loaders give floats, which are not whole if they were resized.
        cast = f"dataset.map(lambda x: tf.cast(tf.round(x), '{dtype}'))"
        if low >= 0.0 and np.all(x == np.rint(x)):
            if high < levels:
                return (
                    f"pass integers, images.astype('{dtype}'), of a data set {cast}: "
                    "the model dequantizes"
                )
            return (
                f"for integers up to {high:g} build the model with num_levels="
                f"{int(high) + 1}, and pass them as such"
            )
        if low >= 0.0 and high <= levels - 1:
            return (
                f"pixels that were resized are to be integers again, {cast}, or "
                f"np.rint(images).astype('{dtype}'); measurements of any range need "
                "num_levels=None, logit_lambda=None"
            )
        if low >= -1.0 and high <= 1.0:
            return (
                "if they were scaled to [-1, 1], pass the integers from before; "
                "measurements of any range need num_levels=None, logit_lambda=None"
            )
        return "measurements of any range need num_levels=None, logit_lambda=None"

    def checked(self, x: Any, *, density: bool = False) -> tf.Tensor:
        """Returns events as a tensor after a check of shape, type and range.

        Inside a `tf.function` there are no values to check; `dequantize` makes those
        out of range NaN. What is not known of the shape is checked when the graph runs.

        Args:
            x: `[n, *shape]`.
            density: Whether densities of them are asked for; see `check_density`.

        Raises:
            ValueError: If they do not fit, in one line.
        """
        if isinstance(x, (tf.Variable, keras.Variable)):
            x = tf.convert_to_tensor(x)
        if isinstance(x, tf.Tensor) and not isinstance(x, tf.__internal__.EagerTensor):
            self.check_shape(x.shape)
            return with_known_sides(x, self.shape)
        self.check(x)
        if density:
            self.check_density("events", x)
        return tf.convert_to_tensor(x)
