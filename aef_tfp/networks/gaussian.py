"""Networks with a diagonal Gaussian at the end: location and scale."""

import math
import re
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from aef_tfp.networks.advice import refuse_half_precision
from aef_tfp.networks.batching import (
    build_for_batches,
    density_dtype,
    with_flat_batch,
)
from aef_tfp.networks.equalized import EqualizedDense
from aef_tfp.networks.expansion import Expandable
from aef_tfp.networks.mode import build_for_training, call_network

__all__ = [
    "DECODER_SCALES",
    "GaussianDecoder",
    "GaussianEncoder",
    "PointEncoder",
    "positive_scale",
]

DECODER_SCALES = ("independent", "dependent", "fixed")
"""Kinds of scale that `GaussianDecoder` knows."""

# Of the heads' EqualizedDense layers. With 256, on MNIST (d = 32, 6,272 features), the
# likelihood after 2,000 iterations was 0.014 bits per dimension worse.
_REFERENCE_FEATURES = 2048

# Keeps a scale away from zero, where the encoder of eq. 4 is not invertible.
_SCALE_FLOOR = 1e-5


def positive_scale(raw_scale: tf.Tensor) -> tf.Tensor:
    """Returns softplus(raw_scale) + 1e-5, a scale that no network makes zero."""
    return tf.nn.softplus(raw_scale) + _SCALE_FLOOR


def _reason(error: Exception) -> str:
    """The first line of Keras's that says what is wrong, not where."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Exception encountered")]
    return (said or lines or [type(error).__name__])[0]


class _HeadedNetwork(Expandable, keras.layers.Layer):
    """Any Keras network, called with any batch shape, outputs in the density dtype."""

    # What messages call it.
    _role: ClassVar[str] = "encoder"

    def __init__(self, network, input_shape: Sequence[int], **kwargs):
        super().__init__(dtype=density_dtype(kwargs.pop("dtype", None)), **kwargs)
        self.network = network
        self._network_input_shape = tuple(input_shape)
        # One call builds the network, whatever its kind, and shows its outputs.
        try:
            build_for_batches(self.network, input_shape)
            outputs = call_network(
                self.network, tf.zeros((1, *input_shape), self.compute_dtype)
            )
            build_for_training(self.network, input_shape)
        except ValueError as error:
            raise ValueError(
                f"The {self._role} does not take its input of shape "
                f"{_batch(input_shape)}; Keras says: {_reason(error)}"
            ) from error
        if isinstance(outputs, dict):
            raise ValueError(
                f"The {self._role} must return a tensor or a pair (location, scale), "
                f"got a dict with keys {', '.join(map(repr, outputs))}."
            )
        refuse_half_precision(self._role, self.network)
        self._output_shapes = [tuple(y.shape[1:]) for y in tf.nest.flatten(outputs)]

    def _raw(self, x):
        """Calls the network; its one or more outputs as a list in our dtype."""
        outputs = tf.nest.flatten(call_network(self.network, x))
        return [tf.cast(output, self.compute_dtype) for output in outputs]

    def _refuse(self, allowed: str):
        shapes = " and ".join(map(_batch, self._output_shapes))
        hint = ""
        if len(self._output_shapes) == 3:
            hint = "; leave out the sampled latents, the model draws them itself"
        raise ValueError(f"The {self._role} must return {allowed}, got {shapes}{hint}.")

    def call(self, x):
        """Maps `[..., *input]` to what the heads return, `[..., *event]` each."""
        return with_flat_batch(
            self._headed, x, event_ndims=len(self._network_input_shape)
        )

    def _headed(self, x):
        raise NotImplementedError

    def build(self, input_shape):
        """Notes the shape `[..., *input]`; the weights are there."""

    @property
    def _parts(self):
        heads = (getattr(self, name, None) for name in ("loc_head", "scale_head"))
        return [self.network, *(head for head in heads if head is not None)]

    def _batch_shape(self, input_shape):
        return tuple(input_shape[: len(input_shape) - len(self._network_input_shape)])

    def get_config(self):
        """Returns the constructor's arguments; the network as a serialized object."""
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
        }

    @classmethod
    def from_config(cls, config):
        """Rebuilds the layer and its network."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})


class _Encoder(_HeadedNetwork):
    """Features of an event, and from them latents."""

    def __init__(self, network, event_shape, latent_dim: int, **kwargs):
        super().__init__(network, event_shape, **kwargs)
        self.latent_dim = latent_dim

    def get_config(self):
        """Returns the constructor's arguments; the network as a serialized object."""
        return {
            **super().get_config(),
            "event_shape": list(self._network_input_shape),
            "latent_dim": self.latent_dim,
        }


@keras.saving.register_keras_serializable(package="aef_tfp")
class GaussianEncoder(_Encoder):
    """Encoder with Gaussian outputs: g_m and g_s of eq. 4, 9.

    A network with one output is taken as features: two linear heads follow,

        loc = linear(features),  scale = softplus(linear(features)) + 1e-5.

    A network with two outputs is taken as (loc, scale) itself; its scale must be
    positive.

    Args:
        network: Any Keras layer or model from `[batch, *event_shape]`.
        event_shape: Shape of the network's input.
        latent_dim: Number of latents d.
        **kwargs: As in every Keras layer.

    Raises:
        ValueError: If the network has two outputs that are not `[batch, latent_dim]`,
            or more than two.
    """

    def __init__(self, network, event_shape, latent_dim: int, **kwargs):
        super().__init__(network, event_shape, latent_dim, **kwargs)
        if len(self._output_shapes) == 1:
            self.flatten = keras.layers.Flatten(dtype=self.dtype_policy)
            self.loc_head = _linear(latent_dim, self, "loc_head")
            self.scale_head = _linear(latent_dim, self, "scale_head")
        elif self._output_shapes != [(latent_dim,)] * 2:
            self._refuse(
                f"features, or location and scale of shape [batch, {latent_dim}] each"
            )
        self.built = True

    def _headed(self, x):
        outputs = self._raw(x)
        if len(outputs) == 2:
            return tuple(outputs)
        features = self.flatten(outputs[0])
        scale = positive_scale(self.scale_head(features))
        return self.loc_head(features), scale

    def compute_output_shape(self, input_shape):
        """Returns the shapes of location and scale, `[..., d]` each."""
        shape = (*self._batch_shape(input_shape), self.latent_dim)
        return shape, shape


@keras.saving.register_keras_serializable(package="aef_tfp")
class PointEncoder(_Encoder):
    """Encoder without a scale: one linear head on the network's features.

    Args:
        network: Any Keras layer or model from `[batch, *event_shape]` with one output.
        event_shape: Shape of the network's input.
        latent_dim: Number of latents d.
        **kwargs: As in every Keras layer.

    Raises:
        ValueError: If the network has more than one output.
    """

    def __init__(self, network, event_shape, latent_dim: int, **kwargs):
        super().__init__(network, event_shape, latent_dim, **kwargs)
        if len(self._output_shapes) != 1:
            self._refuse("one output (features) here, where latents have no scale")
        self.flatten = keras.layers.Flatten(dtype=self.dtype_policy)
        self.loc_head = _linear(latent_dim, self, "loc_head")
        self.built = True

    def _headed(self, x):
        return self.loc_head(self.flatten(self._raw(x)[0]))

    def compute_output_shape(self, input_shape):
        """Returns the shape of the latents, `[..., d]`."""
        return (*self._batch_shape(input_shape), self.latent_dim)


@keras.saving.register_keras_serializable(package="aef_tfp")
class GaussianDecoder(_HeadedNetwork):
    """Decoder with Gaussian outputs: f and sigma of eq. 5.

    The scale is one of

        fixed:        1
        independent:  softplus(weight) + 1e-5, one weight per entry of the event
        dependent:    softplus(network output) + 1e-5

    For `dependent` the network returns location and raw scale side by side on its last
    axis. A network with two outputs is taken as (loc, scale) itself, whatever
    `scale` says; its scale must be positive.

    Args:
        network: Any Keras layer or model from `[batch, latent_dim]`.
        latent_dim: Number of latents d.
        event_shape: Shape of one event.
        scale: `"fixed"`, `"independent"` or `"dependent"`.
        initial_raw_scale: Where the weights of the independent scale start.
        **kwargs: As in every Keras layer.

    Raises:
        ValueError: If `scale` is unknown or the network's output has the wrong shape.
    """

    _role: ClassVar[str] = "decoder"

    def __init__(
        self,
        network,
        latent_dim: int,
        event_shape: Sequence[int],
        scale: str = "independent",
        initial_raw_scale: float = 0.0,
        **kwargs,
    ):
        if scale not in DECODER_SCALES:
            raise ValueError(
                f"decoder_scale must be one of {', '.join(map(repr, DECODER_SCALES))}, "
                f"got {scale!r}."
            )
        super().__init__(network, (latent_dim,), **kwargs)
        self.scale = scale
        self._scale_argument = scale
        self._initial_raw_scale = initial_raw_scale
        self._event_shape = event_shape = tuple(event_shape)
        if len(self._output_shapes) == 2:
            if self._output_shapes != [event_shape] * 2:
                self._refuse(f"location and scale of shape {_batch(event_shape)} each")
            self.scale = "own"
        elif scale == "dependent":
            doubled = (*event_shape[:-1], 2 * event_shape[-1])
            if self._output_shapes != [doubled]:
                self._refuse(
                    f"location and raw scale on the last axis, {_batch(doubled)}, or "
                    "as two outputs, for a dependent scale"
                )
        elif self._output_shapes != [event_shape]:
            self._refuse(f"one output {_batch(event_shape)} or location and scale")
        if self.scale == "independent":
            self.raw_scale = self.add_weight(
                name="raw_scale",
                shape=event_shape,
                initializer=keras.initializers.Constant(initial_raw_scale),
            )
        self.built = True

    def _headed(self, z):
        outputs = self._raw(z)
        if self.scale == "own":
            return tuple(outputs)
        if self.scale == "dependent":
            loc, raw_scale = tf.split(outputs[0], 2, axis=-1)
            return loc, positive_scale(raw_scale)
        loc = outputs[0]
        if self.scale == "fixed":
            return loc, tf.ones_like(loc)
        scale = positive_scale(tf.convert_to_tensor(self.raw_scale))
        return loc, tf.broadcast_to(scale, tf.shape(loc))

    def compute_output_shape(self, input_shape):
        """Returns the shapes of location and scale, `[..., *event_shape]` each."""
        shape = (*self._batch_shape(input_shape), *self._event_shape)
        return shape, shape

    def get_config(self):
        """Returns the constructor's arguments; the network as a serialized object."""
        return {
            **super().get_config(),
            "latent_dim": self._network_input_shape[0],
            "event_shape": list(self._event_shape),
            "scale": self._scale_argument,
            "initial_raw_scale": self._initial_raw_scale,
        }


def _linear(latent_dim: int, layer: _HeadedNetwork, name: str) -> EqualizedDense:
    """A linear head on the flattened features of a layer's network."""
    head = EqualizedDense(
        latent_dim,
        reference_inputs=_REFERENCE_FEATURES,
        dtype=layer.dtype_policy,
        name=name,
    )
    with keras.name_scope(layer.name, caller=layer):
        head.build((None, math.prod(layer._output_shapes[0])))
    return head


def _batch(shape: Sequence[int]) -> str:
    return f"[batch, {', '.join(map(str, shape))}]"
