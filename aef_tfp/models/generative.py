"""The abstract generative model: networks, preprocessing, public methods."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from aef_tfp import flows
from aef_tfp.models.arguments import (
    check_positive_scale,
    checked_count,
    checked_event_shape,
    normal_noise,
    shape_text,
    stateless_seed,
)
from aef_tfp.models.bits import bits_per_dim
from aef_tfp.models.engine import LikelihoodTrainer, first_examples
from aef_tfp.models.events import EventSpec
from aef_tfp.networks import (
    GaussianDecoder,
    GaussianEncoder,
    get_decoder,
    get_encoder,
)

__all__ = ["GenerativeModel"]

# Enough for means and standard deviations of ActNorm, one forward pass even on a CPU.
_ADAPT_EXAMPLES = 512


class GenerativeModel(LikelihoodTrainer):
    """An autoencoder with a prior flow and Gaussian deviations (abstract).

    As a generative model (directions as in TFP, base to data):

        z = prior_flow.forward(z0),              z0 ~ N(0, I_d)
        y = f(z) + sigma(z) * deviations,        deviations ~ N(0, I)
        x = preprocessing.forward(y)

    An event is `[H, W, C]` or a vector `[n]`. Integer data of `num_levels` values are
    dequantized by the model: x -> (x + U[0, 1)) / num_levels; float data are taken as
    they are, in [0, 1] where a pixel logit precedes the model.

    Args:
        event_shape: Shape of one event.
        latent_dim: Number of latents d, at least 1.
        encoder: Keras layer or model from events to features, or to (location, scale)
            of the latents; `"conv"` (the paper's small network), `"dense"`, or None for
            the first on images and the second on vectors.
        decoder: Keras layer or model from latents to the location of events, or to
            (location, scale); or a name as for `encoder`.
        prior_flow: `"maf"`, `"iaf"`, `"none"`, or a Keras layer with a `.bijector` over
            `[d]`.
        decoder_scale: `"independent"`, `"dependent"` or `"fixed"`; see
            `networks.GaussianDecoder`.
        num_levels: Number of values of integer data; `"auto"` means 256 for images.
            None: the data are continuous.
        logit_lambda: Lambda of the pixel logit (eq. 19); `"auto"` means 1e-6 for images
            of one channel, 0.05 for more, None for vectors. None: the data are any real
            numbers.
        seed: Seed of the noise of `fit` and `evaluate`.
        **kwargs: As in `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range or a network's output has the
            wrong shape.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        encoder: Any = None,
        decoder: Any = None,
        prior_flow: Any = "maf",
        decoder_scale: str = "independent",
        num_levels: Any = "auto",
        logit_lambda: Any = "auto",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        self.event_shape = checked_event_shape(event_shape)
        self.latent_dim = checked_count("latent_dim", latent_dim)
        density = self.dtype_policy.variable_dtype
        self.events = EventSpec.of(self.event_shape, num_levels, logit_lambda, density)
        self.decoder_scale = decoder_scale

        act_norm = flows.ActNorm(self.event_shape[-1], name="act_norm", dtype=density)
        self.preprocessing = flows.Stack(
            [*self._squash(density), act_norm], name="preprocessing", dtype=density
        )
        self.encoder = GaussianEncoder(
            get_encoder(encoder, self.event_shape, dtype=self.dtype_policy),
            self.event_shape,
            self.latent_dim,
            name="encoder",
            dtype=density,
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
            name="decoder",
            dtype=density,
        )
        self.prior_flow = flows.get(prior_flow, self.latent_dim, dtype=density)
        self._is_adapted = self.add_weight(
            name="is_adapted",
            shape=(),
            dtype="bool",
            initializer="zeros",
            trainable=False,
        )

    def _squash(self, dtype: Any) -> list[flows.Flow]:
        logit_lambda = self.events.logit_lambda
        if logit_lambda is None:
            return []
        return [flows.PixelSquash(logit_lambda, name="pixel_squash", dtype=dtype)]

    # What a kind of model defines.

    @abstractmethod
    def log_prob(self, x: Any, *, seed: int | None = None) -> tf.Tensor:
        """Exact log-density of events in nats, `[batch]`, where the model has one."""

    @abstractmethod
    def _encode(self, y: tf.Tensor) -> tf.Tensor:
        """Latents `[batch, d]` of preprocessed events."""

    @abstractmethod
    def _decode(self, z: tf.Tensor, deviations: Any) -> tf.Tensor:
        """Events of latents; `deviations` standard normal `[batch, n]`, or None."""

    @abstractmethod
    def _adapt_latents(self, y: tf.Tensor) -> tf.Tensor:
        """Initializes the kind's own flows; returns latents `[batch, d]`."""

    @property
    @abstractmethod
    def _num_deviations(self) -> int:
        """Number of standard normal deviations of one event."""

    # Data.

    @property
    def event_size(self) -> int:
        """Number of entries of one event, N."""
        return self.events.size

    def bits_per_dim(self, log_prob: Any) -> Any:
        """Converts nats per event to bits per dimension, quantization included."""
        return bits_per_dim(log_prob, self.event_size, self.events.num_levels)

    def adapt(self, data: Any) -> None:
        """Initializes every ActNorm from data, layer by layer from data to base.

        `fit` does this when nobody did. Runs eagerly, outside of any replica, so that
        all replicas get the same values.

        Args:
            data: Array `[n, *event_shape]` or data set of batches, as for `fit`; the
                first 512 examples are used.

        Raises:
            ValueError: If the data do not fit the model, or a network of the user's
                gives a scale that is not positive.
        """
        x = self.events.checked(first_examples(data, _ADAPT_EXAMPLES))
        if not len(x):
            raise ValueError("adapt needs at least one example, got none.")
        x = self.dequantize(x, stateless_seed(self.seed))
        y = self.preprocessing.adapt_inverse(x)
        z = self._adapt_latents(y)
        flows.adapt_inverse(self.prior_flow, z)
        check_positive_scale("encoder", self.encoder(y)[1])
        check_positive_scale("decoder", self.decoder(z)[1])
        self._is_adapted.assign(True)

    def fit(self, x=None, y=None, *args, validation_data=None, **kwargs):
        """Trains by maximum likelihood; arguments and result as in `keras.Model.fit`.

        Args:
            x: Events alone: array `[n, *event_shape]` (uint8 as it is, or float) or a
                `tf.data.Dataset` of batches.
            y: Must be None: the model takes no labels.
            *args: As in `keras.Model.fit`.
            validation_data: Like `x`.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            Keras's `History`; `loss` is in nats per event.

        Raises:
            ValueError: If the data do not fit the model.
            FloatingPointError: If too many updates in a row are not finite.
        """
        self.events.check_training_data("fit", x, y)
        if validation_data is not None:
            self.events.check_training_data("validation_data", validation_data)
        self._assert_compile_called("fit")
        if not bool(self._is_adapted.numpy()):
            self.adapt(x)
        if not isinstance(x, (np.ndarray, tf.Tensor)):
            # A data set shuffles itself; Keras warns about its own default.
            kwargs.setdefault("shuffle", False)
        self._skips_in_a_row = 0
        return super().fit(x, y, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates the objective; arguments and result as in `keras.Model.evaluate`.

        The dequantization noise is a function of the model's seed and the position of
        the batch: equal calls give equal values.
        """
        if not kwargs.get("_use_cached_eval_dataset"):
            self.events.check_training_data("evaluate", x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def dequantize(self, x: tf.Tensor, seed: Any) -> tf.Tensor:
        """Makes integer events continuous; see `EventSpec.dequantize`."""
        return self.events.dequantize(x, seed)

    # What users do with a model.

    @property
    def prior(self) -> tfd.Distribution:
        """Distribution of the latents: the prior flow of a standard normal."""
        return tfd.TransformedDistribution(
            self._standard_normal(self.latent_dim), self.prior_flow.bijector
        )

    def call(self, x):
        """Reconstructs events, `[batch, *event_shape]`, as `predict` does."""
        return self._reconstruct(tf.convert_to_tensor(x))

    def encode(self, x: Any) -> tf.Tensor:
        """Returns the latents z of events.

        Args:
            x: `[batch, *event_shape]`; integers are taken at the middle of their level.

        Returns:
            `[batch, latent_dim]`.
        """
        return self._encode_events(self.events.checked(x))

    def decode(self, z: Any) -> tf.Tensor:
        """Returns the events f(z) of latents, without deviations.

        Args:
            z: `[batch, latent_dim]`.

        Returns:
            `[batch, *event_shape]`; in (0, 1) where a pixel logit precedes the model.

        Raises:
            ValueError: If `z` has another shape.
        """
        z = tf.convert_to_tensor(z, self.dtype_policy.variable_dtype)
        if z.shape.rank != 2 or z.shape[-1] != self.latent_dim:
            raise ValueError(
                f"decode takes latents of shape [batch, {self.latent_dim}], got "
                f"{shape_text(z.shape)}."
            )
        return self._decode_latents(z)

    def reconstruct(self, x: Any) -> tf.Tensor:
        """Returns `decode(encode(x))`, `[batch, *event_shape]`."""
        return self._reconstruct(self.events.checked(x))

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
        if start.shape[0] != end.shape[0]:
            raise ValueError(
                f"start and end must hold equally many events, got {start.shape[0]} "
                f"and {end.shape[0]}."
            )
        checked_count("num_steps", num_steps, least=2)
        z_start, z_end = self._encode_events(start), self._encode_events(end)
        weights = tf.linspace(
            tf.zeros((), z_start.dtype), tf.ones((), z_start.dtype), num_steps
        )[None, :, None]
        z = (1.0 - weights) * z_start[:, None] + weights * z_end[:, None]
        x = self._decode_latents(tf.reshape(z, [-1, self.latent_dim]))
        return tf.reshape(x, [-1, num_steps, *self.event_shape])

    def sample(
        self,
        num_samples: int,
        temperature: float = 1.0,
        seed: int | None = None,
        *,
        with_deviations: bool = False,
    ) -> tf.Tensor:
        """Draws events: Algorithm 2 and 3 of the paper.

        Args:
            num_samples: At least 1.
            temperature: Standard deviation of the prior's base noise, at least 0; the
                paper shows samples at 0.85.
            seed: Any integer for reproducible samples; None draws new ones each time.
            with_deviations: Add sigma(z) * deviations (at the same temperature) to the
                decoder's mean, which makes them samples of the density itself.

        Returns:
            `[num_samples, *event_shape]`; in (0, 1) where a pixel logit precedes the
            model.

        Raises:
            ValueError: If a number is out of its range.
        """
        checked_count("num_samples", num_samples)
        if not (np.isfinite(temperature) and temperature >= 0.0):
            raise ValueError(
                "temperature must be a finite number of at least 0, got "
                f"{temperature!r}."
            )
        dtype = self.dtype_policy.variable_dtype
        return self._sample(
            stateless_seed(seed),
            tf.constant(num_samples, tf.int32),
            tf.constant(temperature, dtype),
            with_deviations,
        )

    # Compiled counterparts. tf.identity keeps TFP's caches from answering with values
    # of older weights.

    @tf.function(reduce_retracing=True)
    def _sample(self, seed, num_samples, temperature, with_deviations):
        seeds = tf.random.split(seed, 2)

        def noise(size, noise_seed):
            shape = [num_samples, size]
            return temperature * normal_noise(shape, noise_seed, self.events.dtype)

        z = self.prior_flow.bijector.forward(noise(self.latent_dim, seeds[0]))
        deviations = noise(self._num_deviations, seeds[1]) if with_deviations else None
        return self._decode(z, deviations)

    @tf.function(reduce_retracing=True)
    def _encode_events(self, x):
        x = self.dequantize(x, seed=None)
        return self._encode(self.preprocessing.bijector.inverse(tf.identity(x)))

    @tf.function(reduce_retracing=True)
    def _decode_latents(self, z):
        return self._decode(tf.identity(z), None)

    @tf.function(reduce_retracing=True)
    def _reconstruct(self, x):
        return self._decode_latents(self._encode_events(x))

    def _standard_normal(self, size: int) -> tfd.Distribution:
        zero = tf.zeros((), self.dtype_policy.variable_dtype)
        return tfd.Sample(tfd.Normal(zero, tf.ones_like(zero)), size)

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        return {
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "event_shape": list(self.event_shape),
            "latent_dim": self.latent_dim,
            "decoder_scale": self.decoder_scale,
            "num_levels": self.events.num_levels,
            "logit_lambda": self.events.logit_lambda,
            "seed": self.seed,
            "encoder": keras.saving.serialize_keras_object(self.encoder.network),
            "decoder": keras.saving.serialize_keras_object(self.decoder.network),
            "prior_flow": keras.saving.serialize_keras_object(self.prior_flow),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model; weights come from the file."""
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects)
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }
        return cls(**config)
