"""The flow without an autoencoder: a MAF over all pixels."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from aef_tfp import flows
from aef_tfp.bijectors.reuse import chain
from aef_tfp.engine.arguments import checked_count
from aef_tfp.engine.noise import standard_normal
from aef_tfp.flows.checks import bijector_of, is_of_user
from aef_tfp.models.density import Density, Exact
from aef_tfp.models.event_model import EventModel

__all__ = ["PixelMAF"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class PixelMAF(Exact, Density, EventModel):
    """Masked autoregressive flow over an event's preprocessed entries.

    x = preprocessing.forward(flow.forward(z0)), z0 ~ N(0, I_N): an exact likelihood
    with as many latents as entries. `log_prob` costs one pass through each MADE,
    `sample` N sequential steps per MADE.

    Args:
        event_shape: Shape of one event: `(H, W, C)` of images, `(n,)` of vectors.
        num_layers: MADE layers, at least 1; the paper has 4 on small images, 8 on
            larger ones.
        hidden_units: Width of each, at least 1; 256 and 512 there.
        flow: `"maf"` or `"iaf"`, of these sizes; or a Keras layer with a `.bijector`
            over `[N]`, or `"none"`, which read neither. None: the first.
        num_levels: Number of values of integer data; `"auto"` means 256 for images.
            None: the data are continuous.
        logit_lambda: Lambda of the pixel logit (eq. 19), in [0, 0.5); `"auto"` means
            1e-6 for images of one channel, 0.05 for more, None for vectors. None: the
            data are any real numbers, and noisy ones leave [0, 1].
        noise_std: Standard deviation of the noise on training events (denoising,
            appendix B), at least 0.
        denoising_target: `"noisy"`: training maximizes the density of noisy events.
        seed: Seed of all noise of `fit` and `evaluate`, from 0 to 2**64 - 1.
        name: Name of the model.
        dtype: Keras's policy: `"float32"`, `"float64"`, or `"mixed_bfloat16"` for the
            networks, with densities in float32. None: Keras's present one.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> model = PixelMAF((28, 28, 1))
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> history = model.fit(images, batch_size=128, epochs=1)  # uint8 images
        >>> model.log_prob(images[:4]).shape
        TensorShape([4])

    Reference: Papamakarios et al. (arXiv:1705.07057).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        num_layers: int = 4,
        hidden_units: int = 256,
        flow: Any = None,
        num_levels: Any = "auto",
        logit_lambda: Any = "auto",
        noise_std: float = 0.0,
        denoising_target: str = "noisy",
        seed: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__(
            event_shape,
            num_levels=num_levels,
            logit_lambda=logit_lambda,
            noise_std=noise_std,
            denoising_target=denoising_target,
            seed=seed,
            name=name,
            dtype=dtype,
        )
        self.num_layers = num_layers
        self.hidden_units = hidden_units
        if flow is None or (isinstance(flow, str) and flow in ("maf", "iaf")):
            build = flows.IAF if flow == "iaf" else flows.MAF
            flow = build(
                self.event_size,
                num_layers=checked_count("num_layers", num_layers),
                hidden_units=checked_count("hidden_units", hidden_units),
                name="flow",
                dtype=self.events.dtype,
            )
        self.flow = flows.get(
            flow, self.event_size, dtype=self.events.dtype, name="flow"
        )
        self._complete()

    _why_only_noisy = (
        "it has no encoder for the noisy event; use 'noisy', or another model"
    )

    def _parts(self):
        return {**super()._parts(), "flow": (self.flow, (self.event_size,))}

    @property
    def _repeated_layers(self):
        return [*filter(is_of_user, [self.flow])]

    @property
    def distribution(self) -> tfd.TransformedDistribution:
        """The model as a distribution over events; see `Exact`."""
        return tfd.TransformedDistribution(
            standard_normal(self.event_size, self.events.dtype), self._event_bijector
        )

    @property
    def _event_bijector(self) -> tfb.Bijector:
        """Bijector from z0 `[N]` to the event."""
        return chain(
            [
                self.preprocessing.bijector,
                tfb.Reshape(self.event_shape, [self.event_size]),
                bijector_of(self.flow),
            ]
        )

    def call(self, x):
        """Maps events to their base noise z0, `[batch, N]`, as `predict` does."""
        x = self.dequantize(tf.convert_to_tensor(x), seed=None)
        return self._event_bijector.inverse(tf.identity(x))

    def _objective_of(self, inputs, targets, seed):
        """Log-density of dequantized events, nats, `[batch]`."""
        return self.distribution.log_prob(tf.identity(targets))

    def _generate(self, num_samples, temperature, with_deviations, seed):
        base = temperature * self._noise(num_samples, self.event_size, seed)
        return self._event_bijector.forward(base)

    def _adapt_flows(self, y):
        flows.adapt_inverse(self.flow, self._flat(y))
