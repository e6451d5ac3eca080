"""Variational baselines on the same parts: VAE and IWAE."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from aef_tfp import flows
from aef_tfp.engine.arguments import checked_count
from aef_tfp.engine.noise import fold_seed, standard_normal
from aef_tfp.models.copying import check_has_parts, copy_part, with_parts_of
from aef_tfp.models.event_model import EventModel
from aef_tfp.models.expanded import ExpandedAEF
from aef_tfp.models.likelihood import Likelihood
from aef_tfp.models.marginal import Marginal

__all__ = ["IWAE", "VAE"]


class Variational(Marginal):
    """A mixin of `EventModel` for autoencoders with a stochastic encoder.

    z = g_m(y) + g_s(y) * posterior_flow.forward(epsilon), epsilon ~ N(0, I) (eq. 1), is
    the encoding of an expanded AEF with noise in place of h(y). So the chain is the
    same, its core flow is the posterior flow inverted, and training maximizes

        log p(z, x) - log q(z | x)
    """

    # K of the objective.
    num_importance_samples: int = 1

    _instead: ClassVar[Mapping[str, str]] = {
        "log_prob": "use elbo(x) for the training objective, a lower bound, or "
        "marginal_log_prob(x, num_samples) for a tighter estimate of log p(x).",
        "distribution": "its likelihood is an integral: marginal_log_prob(x, "
        "num_samples) estimates it; latent_distribution is that of the latents.",
        "joint_log_prob": "its objective is elbo(x).",
    }

    def _make_posterior(
        self, prior_flow: Any, posterior_flow: Any, proposal_scales: Any
    ) -> None:
        dtype = self.events.dtype
        posterior_flow = flows.get(
            posterior_flow, self.latent_dim, dtype=dtype, name="posterior_flow"
        )
        core_flow = flows.Inverted(posterior_flow, dtype=dtype, name="posterior_flow")
        self._make_pair(prior_flow, core_flow, proposal_scales)
        self._complete()

    def _parts(self):
        parts = super()._parts()
        # What the user gave is the posterior flow; the core flow inverts it.
        parts["posterior_flow"] = parts.pop("core_flow")
        return parts

    @classmethod
    def from_aef(cls, aef: ExpandedAEF) -> Any:
        """Returns a model with copies of an expanded AEF's networks and flows.

        The AEF's core flow, inverted, is the posterior flow: an AEF with a MAF core is
        a VAE with an IAF posterior.

        Args:
            aef: The model to copy from; it stays as it is.

        Raises:
            TypeError: If its latents are not those of such a model.
        """
        check_has_parts(aef)
        posterior_flow = flows.Inverted(
            aef.core_flow, dtype=aef.events.dtype, name="posterior_flow"
        )
        model = with_parts_of(
            cls, aef, posterior_flow=keras.saving.serialize_keras_object(posterior_flow)
        )
        copy_part(model.posterior_flow.flow, aef.core_flow)
        return model

    @property
    def posterior_flow(self) -> Any:
        """The flow from epsilon to the standardized latents."""
        return self.core_flow.flow

    @property
    def likelihood(self) -> Likelihood:
        """Training maximizes a lower bound."""
        count = self.num_importance_samples
        number = "one" if count == 1 else str(count)
        return Likelihood(
            "elbo",
            self.elbo,
            f"{self._bound_name}_",
            f"{number}-sample ELBO, a lower bound of log p(x)",
            is_noisy=True,
        )

    # What its numbers are called.
    _bound_name: ClassVar[str] = "elbo"

    def _objective_of(self, inputs, targets, seed):
        """Log mean of importance weights of the targets, posterior of the inputs."""
        y, log_det = self._preprocess(targets)
        y_inputs = y if inputs is targets else self._preprocess(inputs)[0]
        noise = tf.stack(
            [
                self._noise(tf.shape(y)[0], self.latent_dim, fold_seed(seed, i))
                for i in range(self.num_importance_samples)
            ]
        )
        unit = tf.ones((), y.dtype)
        proposal = self._propose(y_inputs)
        weights = self._log_weights_of(y, unit, proposal, noise)
        log_sum = tf.reduce_logsumexp(weights, axis=0)
        return log_sum - float(np.log(self.num_importance_samples)) + log_det

    @property
    def _densities_per_pass(self):
        # Each event is decoded K times at once.
        decoded = self._latents_per_pass // self.num_importance_samples
        return max(1, min(self._events_per_pass, decoded))

    def _core_of(self, y, seed):
        if seed is None:
            return tf.zeros([tf.shape(y)[0], self.latent_dim], y.dtype), {}
        epsilon = self._noise(tf.shape(y)[0], self.latent_dim, seed)
        log_normal = standard_normal(self.latent_dim, y.dtype).log_prob(epsilon)
        return epsilon, {"posterior_noise": -log_normal}


@keras.saving.register_keras_serializable(package="aef_tfp")
class VAE(Variational, EventModel):
    """Variational autoencoder with a posterior flow and a prior flow.

    The paper's baseline: an IAF posterior and a MAF prior by default, otherwise the
    parts of `ExpandedAEF` without the expansion. Training maximizes the one-sample ELBO
    (eq. 2).

    Args:
        event_shape: Shape of one event: `(H, W, C)` of images, `(n,)` of vectors.
        latent_dim: Number of latents d, at least 1.
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
        posterior_flow: Flow of the posterior's noise: `"iaf"` (parallel here), `"maf"`
            (sequential here), `"none"`, or a Keras layer with a `.bijector` over `[d]`.
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
        ValueError: If an argument is out of its range.

    Example:
        >>> model = VAE((28, 28, 1), latent_dim=32)
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> history = model.fit(images, batch_size=128, epochs=1)  # uint8 images
        >>> model.elbo(images[:4]).shape
        TensorShape([4])

    References: Kingma and Welling (arXiv:1312.6114); Kingma et al. (arXiv:1606.04934).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        encoder: Any = None,
        decoder: Any = None,
        decoder_scale: str = "independent",
        initial_raw_scale: float | None = None,
        prior_flow: Any = "maf",
        posterior_flow: Any = "iaf",
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
        self._make_posterior(prior_flow, posterior_flow, proposal_scales)


@keras.saving.register_keras_serializable(package="aef_tfp")
class IWAE(Variational, EventModel):
    """Importance weighted autoencoder: a VAE trained on the K-sample bound.

    Args:
        event_shape: Shape of one event: `(H, W, C)` of images, `(n,)` of vectors.
        latent_dim: Number of latents d, at least 1.
        num_importance_samples: K of the training objective, at least 1.
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
        posterior_flow: Flow of the posterior's noise: `"iaf"` (parallel here), `"maf"`
            (sequential here), `"none"`, or a Keras layer with a `.bijector` over `[d]`.
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
        ValueError: If an argument is out of its range.

    Example:
        >>> model = IWAE((28, 28, 1), latent_dim=32, num_importance_samples=5)
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> history = model.fit(images, batch_size=128, epochs=1)  # uint8 images

    Reference: Burda, Grosse and Salakhutdinov (arXiv:1509.00519).
    """

    _bound_name: ClassVar[str] = "iwae"

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        num_importance_samples: int = 5,
        encoder: Any = None,
        decoder: Any = None,
        decoder_scale: str = "independent",
        initial_raw_scale: float | None = None,
        prior_flow: Any = "maf",
        posterior_flow: Any = "iaf",
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
        self._make_posterior(prior_flow, posterior_flow, proposal_scales)
        self.num_importance_samples = num_importance_samples

    def _checked(self, name, value):
        if name == "num_importance_samples":
            return checked_count(name, value)
        return super()._checked(name, value)
