"""A flow of the user's in a model: what it must not be, and how it is called."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors.vectors import VectorBijector
from aef_tfp.flows.compositions import Inverted, Stack
from aef_tfp.flows.elementary import ActNorm, PixelSquash
from aef_tfp.networks.advice import refuse_half_precision
from aef_tfp.networks.batching import with_flat_batch
from aef_tfp.networks.mode import layers_in_mode, run_in_mode

__all__ = [
    "bijector_of",
    "check_flow_of_user",
    "check_takes_vectors",
    "is_of_user",
    "takes",
]


# Of the way there and back, for standard normal numbers in single precision.
_LARGEST_ERROR = 1e-2


def is_of_user(flow: keras.layers.Layer) -> bool:
    """Whether a flow, or one that it is made of, is none of this package's."""
    return bool(_of_user_in(flow))


def _of_user_in(flow: keras.layers.Layer) -> list[keras.layers.Layer]:
    return [
        part
        for part in _parts_of(flow)
        if not type(part).__module__.startswith("aef_tfp.")
    ]


def _parts_of(flow: keras.layers.Layer) -> list[keras.layers.Layer]:
    """What stacks and inverted flows are made of; subclasses may do anything."""
    if type(flow) is Stack:
        return [part for one in flow.flows for part in _parts_of(one)]
    return _parts_of(flow.flow) if type(flow) is Inverted else [flow]


def bijector_of(flow: keras.layers.Layer) -> tfb.Bijector:
    """Returns the bijector of a flow over vectors that any part of a model may call."""
    if not is_of_user(flow):
        return flow.bijector

    def flatten(function, x):
        return with_flat_batch(function, x, event_ndims=1)

    return VectorBijector(flow.bijector, flatten, layers_in_mode)


def check_takes_vectors(flow: keras.layers.Layer, event_size: int) -> None:
    """Refuses a flow of this package that is none over real vectors of a size.

    Args:
        flow: A layer with a `.bijector`.
        event_size: Number of their entries.

    Raises:
        ValueError: If it is for another size, or squashes what it gives.
    """
    # One of the user's may reshape vectors, for flows within that are of other sizes.
    reshapes = is_of_user(flow)
    for part in _parts_of(flow):
        if isinstance(part, PixelSquash):
            raise ValueError(
                f"The flow {flow.name!r} must map all real numbers to real numbers, "
                f"got a PixelSquash ({part.name!r}), which maps to (0, 1); leave it "
                "out."
            )
        is_norm = isinstance(part, ActNorm)
        size = part.size if is_norm else getattr(part, "event_size", None)
        if size not in (None, event_size) and not reshapes:
            raise ValueError(
                f"The flow {flow.name!r} must take vectors of {event_size} entries, "
                f"got one for {size} ({type(part).__name__} {part.name!r}); build it "
                f"for {event_size}."
            )


def takes(flow: keras.layers.Layer, event_size: int, dtype: str) -> bool:
    """Whether the bijector of a flow maps vectors of a float type to such vectors."""
    try:
        return (
            bijector_of(flow).inverse(tf.zeros([1, event_size], dtype)).dtype == dtype
        )
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        return False


def check_flow_of_user(flow: keras.layers.Layer, event_size: int) -> None:
    """Refuses a flow whose bijector does not follow the weights of its layer.

    Args:
        flow: A layer with a `.bijector` over vectors.
        event_size: Number of their entries.

    Raises:
        ValueError: If the bijector has variables that the layer does not own, which
            nothing would train or save, or does not depend on a weight of the layer
            (`tfb.Scale(self.w)` copies the value of a Keras variable), or the layer
            computes in float16, or has layers that add losses or assign weights, or
            its two directions do not fit.
    """
    refuse_half_precision("flow", flow)
    if not is_of_user(flow):
        return
    x = tf.random.stateless_normal([2, event_size], (0, 0), dtype=flow.variable_dtype)
    # The layer may make its weights at the first call.
    bijector_of(flow).inverse(x)
    _check_layers(flow, x)
    with tf.GradientTape() as tape:
        bijector = flow.bijector
        value = bijector.inverse(tf.identity(x))
        log_det = bijector.inverse_log_det_jacobian(tf.identity(x), event_ndims=1)
        total = tf.reduce_sum(value) + tf.reduce_sum(log_det)
    owned = {id(variable.value) for variable in flow.variables}
    foreign = [v.name for v in bijector.variables if id(v) not in owned]
    if foreign:
        raise ValueError(
            f"The bijector of the flow {flow.name!r} has variables that the layer does "
            f"not own ({_listed(foreign)}), so that they would be neither trained nor "
            "saved; make them with self.add_weight in the layer."
        )
    variables = flow.trainable_variables
    # Of a variable on several replicas, the copy that was read here.
    local = tf.distribute.get_strategy().experimental_local_results
    gradients = tape.gradient(total, [local(v.value)[0] for v in variables])
    ignored = [v.path for v, g in zip(variables, gradients, strict=True) if g is None]
    if ignored:
        raise ValueError(
            f"The bijector of the flow {flow.name!r} does not depend on weights of the "
            f"layer ({_listed(ignored)}), so that they would never be trained; let "
            "`bijector` be a property that reads them, since bijectors of TFP copy the "
            "value of a Keras variable."
        )
    for part in _of_user_in(flow):
        _check_inverse(part, x)


def _check_inverse(flow: keras.layers.Layer, x: tf.Tensor) -> None:
    """Refuses a flow whose two directions do not fit, or that draws noise."""
    z = bijector_of(flow).inverse(tf.identity(x))
    try:
        # By a new bijector: noise that one keeps, or TFP's cache, would fit.
        back = bijector_of(flow).forward(tf.identity(z))
    except NotImplementedError:
        # It has a density, and no samples.
        return
    error = float(tf.reduce_max(tf.abs(back - x)))
    if not error <= _LARGEST_ERROR:
        raise ValueError(
            f"The bijector of the flow {flow.name!r} does not invert itself: "
            f"forward(inverse(x)) differs from x by up to {error:.3g} for standard "
            "normal x, so that no density would be right; let its two directions fit "
            "(over all real numbers), and let it draw no noise."
        )


def _check_layers(flow: keras.layers.Layer, x: tf.Tensor) -> None:
    """Refuses layers that count or learn once per call, since TFP calls them twice."""
    with keras.StatelessScope(collect_losses=True) as scope:
        bijector = bijector_of(flow)
        run_in_mode(lambda: bijector.inverse(tf.identity(x)), training=True)
        assigned = [
            variable.path
            for variable in flow.trainable_variables
            if scope.get_current_value(variable) is not None
        ]
    if scope.losses:
        raise ValueError(
            f"The flow {flow.name!r} has layers that add losses (activity_regularizer "
            "or add_loss), which would count several times, since one density calls "
            "them several times; use regularizers of weights."
        )
    if assigned:
        raise ValueError(
            f"The flow {flow.name!r} has layers that assign weights "
            f"({_listed(assigned)}), as SpectralNormalization does, and one density "
            "calls them several times; use constraints of weights."
        )


def _listed(names: list[Any]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
