"""The expanded family: any feature map as the core, trained on the joint density."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.arguments import is_number
from aef_tfp.engine.noise import fold_seed, standard_normal
from aef_tfp.models.availability import available_if
from aef_tfp.models.copying import check_has_parts, copy_part, with_parts_of
from aef_tfp.models.event_model import EventModel
from aef_tfp.models.likelihood import Likelihood
from aef_tfp.models.marginal import Marginal
from aef_tfp.models.standardization import Standardization
from aef_tfp.networks import EqualizedDense
from aef_tfp.networks.advice import refuse_half_precision, refuse_random
from aef_tfp.networks.batching import build_for_batches, events_per_pass, in_passes
from aef_tfp.networks.mode import build_for_training, call_network

__all__ = ["ExpandedAEF"]

# Of the expansion noise. Beyond it, sums of squares overflow.
_LARGEST_NOISE = 1e6


@keras.saving.register_keras_serializable(package="aef_tfp")
class ExpandedAEF(Marginal, EventModel):
    """AEF whose core is a feature map of the event, trained on the joint density.

    The core is w = h(y) of the preprocessed event y, the shell is y itself
    (section 3.2 of the paper). From data to base:

        u = core_flow.inverse(h(y))
        z = g_m(y) + g_s(y) * u                                  (eq. 9)
        deviations = (y - f(z)) / sigma(z)
        z0 = prior_flow.inverse(z)

    Training maximizes `joint_log_prob(x) = log p(x, h(x))` (eq. 10, Algorithm 1). That
    is *not* the likelihood: shrinking h raises it for free. `marginal_log_prob`
    estimates log p(x). Nothing limits the choice of encoder, decoder and prior.

    With expansion noise s > 0 the core is a draw of

        q(w | y) = N(h(y), s^2 I),     each feature of h standardized over the data

    and training maximizes log p(x, w) - log q(w | x) of one draw: `elbo(x)`, on average
    a lower bound of log p(x), which no scale of h changes. So s leads from the AEF, at
    0, to a VAE of the same networks, whose noise is so large that h does not count.

    Args:
        event_shape: Shape of one event: `(H, W, C)` of images, `(n,)` of vectors.
        latent_dim: Number of latents d, and of features, at least 1.
        expansion: The map h: `"linear"` (flatten and one linear layer with bias), or
            any Keras layer or model from events to `[batch, latent_dim]`.
        expansion_noise: s, a fraction of the spread of each feature over the data, at
            least 0. Above 0 the model keeps moving averages of each feature's mean and
            spread, and standardizes by them.
        encoder: Keras layer or model from events to features, or to (location, scale)
            of the latents; `"conv"` (the paper's small network), `"residual"` (its
            large one), `"dense"`, or None for the first on images and the last on
            vectors.
        decoder: Keras layer or model from latents to the location of events, or to
            (location, scale); or a name as for `encoder`.
        decoder_scale: What the scale of the deviations is: `"independent"`, a weight
            per entry; `"dependent"`, an output of the decoder; `"fixed"`, 1.
        initial_raw_scale: Where the weights of the independent scale start, before the
            softplus. None: as in the code behind the paper, 1 with the decoder
            `"residual"` and 0 otherwise; a residual decoder that you build yourself
            takes 1, too.
        prior_flow: Flow of the latents' prior: `"maf"`, `"iaf"`, `"none"`, or a Keras
            layer with a `.bijector` over `[d]`.
        core_flow: Flow over the core, likewise.
        proposal_scales: Tuned scales of the proposals `"encoder"` and `"laplace"`, by
            name, positive; see `metrics.tune_proposal_scale`. Saved with the model.
        num_levels: Number of values of integer data; `"auto"` means 256 for images.
            None: the data are continuous.
        logit_lambda: Lambda of the pixel logit (eq. 19), in [0, 0.5); `"auto"` means
            1e-6 for images of one channel, 0.05 for more, None for vectors. None: the
            data are any real numbers, and noisy ones leave [0, 1].
        noise_std: Standard deviation of the noise on training events (denoising,
            appendix B), at least 0.
        denoising_target: Whose density training maximizes: `"noisy"` events, as in the
            paper, or `"clean"` ones, of which the encoder sees the noisy ones.
        seed: Seed of all noise of `fit` and `evaluate`, from 0 to 2**64 - 1.
        name: Name of the model.
        dtype: Keras's policy: `"float32"`, `"float64"`, or `"mixed_bfloat16"` for the
            networks, with densities in float32. None: Keras's present one.

    Raises:
        ValueError: If an argument is out of its range, or the expansion's output has
            the wrong shape.

    Example:
        >>> model = ExpandedAEF((28, 28, 1), latent_dim=32)
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> history = model.fit(images, batch_size=128, epochs=1)  # uint8 images
        >>> model.marginal_log_prob(images[:4], num_samples=128).shape
        TensorShape([4])

    Reference: Silvestri, Roos, Ambrogioni, ICLR 2023, sections 3.2 and 3.3.
    """

    _instead: ClassVar[Mapping[str, str]] = {
        "log_prob": "use marginal_log_prob(x, num_samples) for an estimate of "
        "log p(x), or joint_log_prob(x) for the training objective log p(x, h(x)), "
        "which is not a likelihood of x (with expansion noise: elbo(x), a bound).",
        "distribution": "its likelihood is an integral: marginal_log_prob(x, "
        "num_samples) estimates it; pair_distribution is that of x and h(x).",
        "elbo": "its objective is joint_log_prob(x), without expansion noise.",
        "joint_log_prob": "its objective is elbo(x), with expansion noise.",
    }

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        expansion: Any = "linear",
        expansion_noise: float = 0.0,
        encoder: Any = None,
        decoder: Any = None,
        decoder_scale: str = "independent",
        initial_raw_scale: float | None = None,
        prior_flow: Any = "maf",
        core_flow: Any = "maf",
        proposal_scales: Mapping[str, float] | None = None,
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
        self._make_networks(
            latent_dim, encoder, decoder, decoder_scale, initial_raw_scale
        )
        self._make_pair(prior_flow, core_flow, proposal_scales)
        is_right = is_number(expansion_noise)
        if not is_right or not 0.0 <= expansion_noise <= _LARGEST_NOISE:
            raise ValueError(
                f"expansion_noise must be a number from 0 to {_LARGEST_NOISE:g}, got "
                f"{expansion_noise!r}; 0.1 to 0.3 is usual."
            )
        self._expansion_noise = float(expansion_noise)
        density = self.events.dtype
        self._standardization = None
        if self.expansion_noise:
            self._standardization = Standardization(self.latent_dim, density)
            self._standardization.build((None, self.latent_dim))
        self.expansion = _get_expansion(expansion, self.latent_dim, density)
        refuse_half_precision("expansion", self.expansion)
        build_for_batches(self.expansion, self.event_shape)
        output = self._features(tf.zeros((1, *self.event_shape), density))
        if output.shape != (1, self.latent_dim):
            raise ValueError(
                f"The expansion must return [batch, {self.latent_dim}], got "
                f"[batch, {', '.join(map(str, output.shape[1:]))}]."
            )
        build_for_training(self.expansion, self.event_shape)
        refuse_random("expansion", self.expansion, self.event_shape)
        self._complete()

    @property
    def expansion_noise(self) -> float:
        """Noise on the features, as a fraction of their spread; fixed, like layers."""
        return self._expansion_noise

    def _parts(self):
        parts = {**super()._parts(), "expansion": (self.expansion, self.event_shape)}
        if self._standardization is not None:
            parts["standardization"] = (self._standardization, (self.latent_dim,))
        return parts

    @classmethod
    def from_vae(
        cls, vae: Marginal, expansion: Any = "linear", expansion_noise: float = 0.0
    ) -> Self:
        """Returns an AEF with copies of a VAE's networks and flows.

        The expansion takes the place of the noise, and the posterior flow, inverted,
        becomes the core flow. Only the expansion is new.

        Args:
            vae: A `VAE` or `IWAE`; it stays as it is.
            expansion: As in the constructor.
            expansion_noise: As in the constructor.

        Raises:
            TypeError: If the model has no such parts.

        Example:
            >>> aef = ExpandedAEF.from_vae(vae)
            >>> aef.compile(keras.optimizers.Adam(1e-3))
            >>> history = aef.fit(images)
        """
        check_has_parts(vae)
        core_flow = keras.saving.serialize_keras_object(vae.core_flow)
        core_flow["config"]["name"] = "core_flow"
        model = with_parts_of(
            cls,
            vae,
            core_flow=core_flow,
            expansion=expansion,
            expansion_noise=expansion_noise,
        )
        copy_part(model.core_flow, vae.core_flow)
        if expansion_noise:
            # The spread of the features is still to be measured. What `fit` finds set,
            # like the VAE's normalizations, it keeps.
            model._is_adapted.assign(False)
        return model

    @property
    def _has_bound(self) -> bool:
        return self.expansion_noise > 0.0

    @property
    def likelihood(self) -> Likelihood:
        """Training maximizes a joint density, or with expansion noise a bound."""
        if self._has_bound:
            return Likelihood(
                "elbo",
                self.elbo,
                "elbo_",
                "one-sample ELBO with noise on h(x), a lower bound of log p(x)",
                is_noisy=True,
            )
        return Likelihood(
            "joint_log_prob",
            self.joint_log_prob,
            "joint_",
            "joint density log p(x, h(x)), no likelihood of x",
        )

    @available_if(lambda model: not model._has_bound)
    def joint_log_prob(
        self, x: Any, *, seed: int | tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns log p(x, h(x)), the training objective without expansion noise.

        It is that of eq. 10.

        Args:
            x: `[batch, *event_shape]`: integers below `num_levels`, or floats, taken as
                dequantized, in [0, 1] where a pixel logit precedes the model.
            seed: Seed of the dequantization of integers; None draws a new one.

        Returns:
            Nats per event, `[batch]`. Not comparable with a likelihood of x.

        Raises:
            ValueError: If `x` has a wrong shape, or values out of range.
        """
        return self._of_events(self._objective_in_graph, x, seed)

    def _objective_of(self, inputs, targets, seed):
        """Log p(x, w) - log q(w | x) of dequantized events, nats, `[batch]`.

        Without expansion noise w is h(x), and there is no q. Where the encoder sees
        noisy inputs, it is log p(x, h(inputs) | inputs): the encoder's shift and scale
        are functions of the inputs, and the chain remains a bijector of the pair.
        """
        y, log_det = self._preprocess(targets)
        y_inputs = y if inputs is targets else self._preprocess(inputs)[0]
        core, terms = self._core_of(y_inputs, fold_seed(seed, 0))
        terms["preprocessing_log_det"] = log_det
        encoded = self.chain.encode_event(y_inputs)
        return self.chain.log_prob(core, self._flat(y), encoded) + sum(terms.values())

    def _features(self, y):
        """h(y), `[batch, d]`, in the dtype of densities."""
        features = tf.cast(call_network(self.expansion, y), self.events.dtype)
        if self._standardization is None:
            return features
        return call_network(self._standardization, features)

    def _core_of(self, y, seed):
        features = self._features(y)
        if seed is None or not self.expansion_noise:
            return features, {}
        epsilon = self._noise(tf.shape(y)[0], self.latent_dim, seed)
        log_normal = standard_normal(self.latent_dim, y.dtype).log_prob(epsilon)
        log_q = log_normal - self.latent_dim * float(np.log(self.expansion_noise))
        return features + self.expansion_noise * epsilon, {"expansion_noise": -log_q}

    @property
    def _events_per_pass(self):
        expanded = events_per_pass(self.expansion, self.event_shape)
        return min(super()._events_per_pass, expanded)

    def _default_scale(self, proposal):
        if proposal == "laplace":
            return 1.0
        # That of q itself; without noise, of the order that tuning finds on MNIST.
        return self.expansion_noise or 0.05

    def _adapt_flows(self, y):
        if self._standardization is not None:
            features = in_passes(
                lambda part: call_network(self.expansion, part),
                y,
                self._events_per_pass,
            )
            self._standardization.measure(features)
        super()._adapt_flows(y)


def _get_expansion(identifier: Any, latent_dim: int, dtype: Any) -> keras.layers.Layer:
    if isinstance(identifier, keras.layers.Layer):
        return identifier
    if identifier != "linear":
        raise ValueError(
            f"expansion must be 'linear' or a Keras layer or model, got {identifier!r}."
        )
    # Uniform on +-1 / sqrt(inputs). The joint density rises as h shrinks, and training
    # takes its time for that: from Keras's larger default the joint loss lags behind by
    # 0.06 bits per dimension after 1,000 iterations on MNIST (d = 32).
    initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    return keras.Sequential(
        [
            keras.layers.Flatten(dtype=dtype),
            EqualizedDense(latent_dim, kernel_initializer=initializer, dtype=dtype),
        ],
        name="expansion",
    )
