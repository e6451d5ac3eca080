"""What models with an encoder and a decoder have in common."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from aef_tfp.engine.arguments import (
    check_fits_memory,
    check_positive_scale,
    checked_count,
    is_number,
    shape_text,
    type_text,
    with_known_sides,
)
from aef_tfp.engine.examples import refuse_not_dense
from aef_tfp.engine.tracing import traced
from aef_tfp.models.mixin import Mixin
from aef_tfp.networks import (
    GaussianDecoder,
    GaussianEncoder,
    PointEncoder,
    get_decoder,
    get_encoder,
)
from aef_tfp.networks.advice import (
    refuse_random,
    warn_if_bounded,
    warn_if_for_pixels,
    warn_if_shared,
)
from aef_tfp.networks.batching import events_per_pass, in_passes, passes
from aef_tfp.networks.mode import training_mode

__all__ = ["Autoencoding"]


class Autoencoding(Mixin):
    """A mixin of `EventModel` for models with an encoder and a decoder."""

    encodes: ClassVar[bool] = True

    def _make_networks(
        self,
        latent_dim: int,
        encoder: Any,
        decoder: Any,
        decoder_scale: str,
        initial_raw_scale: float | None,
        *,
        encoder_outputs: int = 2,
    ) -> None:
        """Makes the encoder and the decoder of a constructor's arguments.

        Raises:
            ValueError: If an argument is out of its range or a network's output has the
                wrong shape.
        """
        self.latent_dim = checked_count("latent_dim", latent_dim)
        self.decoder_scale = decoder_scale
        if initial_raw_scale is None:
            # With many layers, the paper's code starts from wider deviations.
            initial_raw_scale = 1.0 if decoder == "residual" else 0.0
        if not (is_number(initial_raw_scale) and np.isfinite(initial_raw_scale)):
            raise ValueError(
                "initial_raw_scale must be a finite number or None, got "
                f"{initial_raw_scale!r}."
            )
        self.initial_raw_scale = float(initial_raw_scale)
        network = get_encoder(
            encoder,
            self.event_shape,
            self.latent_dim,
            num_outputs=encoder_outputs,
            dtype=self.dtype_policy,
        )
        kind = GaussianEncoder if encoder_outputs == 2 else PointEncoder
        self.encoder = kind(
            network,
            self.event_shape,
            self.latent_dim,
            name="encoder",
            dtype=self.events.dtype,
        )
        self.decoder = GaussianDecoder(
            get_decoder(
                decoder,
                self.latent_dim,
                self.event_shape,
                num_outputs=2 if decoder_scale == "dependent" else 1,
                dtype=self.dtype_policy,
            ),
            self.latent_dim,
            self.event_shape,
            decoder_scale,
            initial_raw_scale=self.initial_raw_scale,
            name="decoder",
            dtype=self.events.dtype,
        )
        inputs = {"encoder": self.event_shape, "decoder": (self.latent_dim,)}
        for role, input_shape in inputs.items():
            refuse_random(role, getattr(self, role).network, input_shape)
            warn_if_shared(role, getattr(self, role).network, self)
        if self.events.logit_lambda is not None:
            warn_if_for_pixels(self.encoder.network)
            warn_if_bounded(self.decoder.network)

    def _parts(self):
        return {
            **super()._parts(),
            "encoder": (self.encoder, self.event_shape),
            "decoder": (self.decoder, (self.latent_dim,)),
        }

    def _argument(self, name):
        if name in ("encoder", "decoder"):
            return getattr(self, name).network
        return super()._argument(name)

    # What a kind of model defines.

    @abstractmethod
    def _encode(self, y: tf.Tensor) -> tf.Tensor:
        """Latents `[batch, d]` of preprocessed events."""

    @abstractmethod
    def _decode(self, z: tf.Tensor, deviations: Any) -> tf.Tensor:
        """Events of latents; `deviations` standard normal `[batch, n]`, or None."""

    # What users do with a model.

    def call(self, x, training=None):
        """Reconstructs events, `[batch, *event_shape]`, as `predict` does.

        Args:
            x: As in `encode`.
            training: Whether the layers of the networks are in training.
        """
        x = tf.convert_to_tensor(x)
        if not training:
            return self._reconstruct(x)
        # Not the compiled one, which was traced for layers at rest.
        with training_mode():
            return self._decoded(self._encoded(x))

    def encode(self, x: Any) -> tf.Tensor:
        """Returns the latents z of events.

        Args:
            x: `[batch, *event_shape]`; integers are taken at the middle of their level.

        Returns:
            `[batch, latent_dim]`.
        """
        x = self.events.checked(x)
        return in_passes(self._encode_events, x, self._events_per_pass)

    def decode(self, z: Any) -> tf.Tensor:
        """Returns the events f(z) of latents, without deviations.

        Args:
            z: `[batch, latent_dim]`.

        Returns:
            `[batch, *event_shape]`; in (0, 1) where a pixel logit precedes the model.

        Raises:
            ValueError: If `z` has another shape, or is not of finite numbers.
        """
        return self._of_latents(self._checked_latents(z))

    def _of_latents(self, z: tf.Tensor) -> tf.Tensor:
        """Does what `decode` says in passes, of any latents: those of a model, too."""
        return in_passes(self._decode_latents, z, self._latents_per_pass)

    def _checked_latents(self, latents: Any) -> tf.Tensor:
        refuse_not_dense("Latents", latents)
        z = latents if tf.is_tensor(latents) else np.asarray(latents)
        dtype = tf.as_dtype(z.dtype)
        if not (dtype.is_floating or dtype.is_integer):
            raise ValueError(
                f"decode takes latents that are numbers, got {type_text(latents)}."
            )
        if not tf.TensorShape([None, self.latent_dim]).is_compatible_with(z.shape):
            raise ValueError(
                f"decode takes latents of shape [batch, {self.latent_dim}], got "
                f"{shape_text(z.shape)}."
            )
        z = tf.cast(z, self.events.dtype)
        if not isinstance(z, tf.__internal__.EagerTensor):
            return with_known_sides(z, [self.latent_dim])
        bad = np.count_nonzero(~np.isfinite(z))
        if bad:
            raise ValueError(f"Latents must be finite, got {bad} NaN or infinite.")
        return z

    def reconstruct(self, x: Any) -> tf.Tensor:
        """Returns `decode(encode(x))`, `[batch, *event_shape]`; of a noisy x, denoised.

        Args:
            x: As in `encode`.
        """
        x = self.events.checked(x)
        return in_passes(self._reconstruct, x, self._events_per_pass)

    def interpolate(self, start: Any, end: Any, num_steps: int = 8) -> tf.Tensor:
        """Decodes straight lines between the latents of pairs of events.

        Args:
            start: `[batch, *event_shape]`.
            end: Like `start`.
            num_steps: Points per line, both ends included, at least 2.

        Returns:
            `[batch, num_steps, *event_shape]`.

        Raises:
            ValueError: If the shapes differ or `num_steps` is below 2.
        """
        start, end = self.events.checked(start), self.events.checked(end)
        counts = start.shape[0], end.shape[0]
        if None in counts:
            # Lines from one event to many would pass.
            tf.debugging.assert_equal(
                *(tf.shape(start)[0], tf.shape(end)[0]),
                "start and end must hold equally many events.",
            )
        elif counts[0] != counts[1]:
            raise ValueError(
                f"start and end must hold equally many events, got {counts[0]} "
                f"and {counts[1]}."
            )
        checked_count("num_steps", num_steps, least=2)
        check_fits_memory(
            f"num_steps of {num_steps:,}",
            4 * num_steps * self.event_size * (counts[0] or 1),
            "take fewer",
        )
        z_start, z_end = self.encode(start), self.encode(end)
        z = _line(z_start, z_end, tf.constant(num_steps, tf.int32))
        x = self._of_latents(tf.reshape(z, [-1, self.latent_dim]))
        return tf.reshape(x, [-1, num_steps, *self.event_shape])

    # Compiled counterparts. tf.identity keeps TFP's caches from answering with values
    # of older weights.

    @traced
    def _encode_events(self, x):
        return self._encoded(x)

    @traced
    def _decode_latents(self, z):
        return self._decoded(z)

    def _encoded(self, x):
        x = self.dequantize(x, seed=None)
        return self._encode(self.preprocessing.bijector.inverse(tf.identity(x)))

    def _decoded(self, z):
        return self._decode(tf.identity(z), None)

    @traced
    def _reconstruct(self, x):
        return self._decode_latents(self._encode_events(x))

    @traced
    def _interpolate(self, start, end, num_steps):
        z = _line(self._encode_events(start), self._encode_events(end), num_steps)
        x = self._decode_latents(tf.reshape(z, [-1, self.latent_dim]))
        return tf.reshape(x, [-1, num_steps, *self.event_shape])

    def _check_scales(self, y: tf.Tensor, z: tf.Tensor) -> None:
        for part in passes(y, self._events_per_pass):
            check_positive_scale("encoder", self.encoder(part)[1])
        for part in passes(z, self._latents_per_pass):
            check_positive_scale("decoder", self.decoder(part)[1])

    @property
    def _events_per_pass(self) -> int:
        # A density decodes what it has encoded, and samples of a partitioned model are
        # encoded when they have been decoded.
        encoded = events_per_pass(self.encoder.network, self.event_shape)
        return min(encoded, self._latents_per_pass)

    @property
    def _latents_per_pass(self) -> int:
        return events_per_pass(self.decoder.network, self.event_shape)


def _line(start: tf.Tensor, end: tf.Tensor, num_steps: tf.Tensor) -> tf.Tensor:
    """Points of straight lines between pairs, `[batch, num_steps, d]`."""
    zero, one = tf.zeros((), start.dtype), tf.ones((), start.dtype)
    weights = tf.linspace(zero, one, num_steps)[None, :, None]
    return (1.0 - weights) * start[:, None] + weights * end[:, None]
