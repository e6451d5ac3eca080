"""The chain of an autoencoder within a flow: the paper's equations on one page."""

from collections.abc import Mapping
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from aef_tfp import flows
from aef_tfp.bijectors import decoder_coupling, encoder_coupling
from aef_tfp.bijectors.reuse import chain
from aef_tfp.engine.noise import standard_normal
from aef_tfp.flows.checks import bijector_of, is_of_user
from aef_tfp.networks.batching import in_passes, with_flat_batch

__all__ = ["Chain", "PartialShell", "Shell", "WholeShell"]


class Shell(Protocol):
    """Which part of an event the decoder describes.

    Attributes:
        size: Number of its entries, m.
    """

    size: int

    def of_event(self, event: tf.Tensor) -> tf.Tensor:
        """Takes the shell `[..., m]` from events `[..., *event_shape]`."""

    def to_event(self, shell: tf.Tensor) -> tf.Tensor:
        """Makes an event of a shell, for the encoder to see."""


class WholeShell(Shell):
    """The whole event is the shell; the core stands beside it (section 3.2).

    Args:
        event_shape: Shape of one event.
    """

    def __init__(self, event_shape: tuple[int, ...]):
        self.size = int(np.prod(event_shape))
        self._event_shape = event_shape

    def of_event(self, event):
        return tf.reshape(event, [-1, self.size])

    def to_event(self, shell):
        return tf.reshape(shell, [-1, *self._event_shape])


class PartialShell(Shell):
    """The shell is what a partition leaves beside the core (section 3.1).

    Args:
        partition: Bijector from (core, shell) to the event.
        latent_dim: Entries of the core, where the encoder sees zeros.
        size: Entries of the shell.
    """

    def __init__(self, partition: tfb.Bijector, latent_dim: int, size: int):
        self.size = size
        self._partition = partition
        self._latent_dim = latent_dim

    def of_event(self, event):
        return self._partition.inverse(event)[1]

    def to_event(self, shell):
        no_core = tf.zeros([tf.shape(shell)[0], self._latent_dim], shell.dtype)
        return self._partition.forward([no_core, shell])


class Chain:
    """A bijector between (z0, deviations) and the pair (core, shell), and its density.

    From base to data, directions as in TFP:

        z = prior_flow.forward(z0),                   z0 ~ N(0, I_d)
        shell = f(z) + sigma(z) * deviations,         deviations ~ N(0, I_m)   (eq. 5)
        u = (z - g_m(shell)) / g_s(shell)             (eq. 4 and 9, inverted)
        core = core_flow.forward(u)

    where the encoder gives g_m and g_s, the decoder f and sigma. So

        log p(core, shell) = log N(z0) + log N(deviations) + log-determinants    (eq. 7)

    In an AEF the core is a part or a feature of the event; in a VAE it is the noise of
    its posterior. The layers belong to the model, which keeps and names their weights.

    Args:
        encoder: Maps events to location and scale of the latents, `[batch, d]` each.
        decoder: Maps latents to location and scale of events.
        core_flow: Layer with a `.bijector` over `[d]`.
        prior_flow: Likewise.
        shell: What the decoder describes.
        latent_dim: d.
        dtype: Of densities.
    """

    def __init__(
        self,
        encoder: keras.layers.Layer,
        decoder: keras.layers.Layer,
        core_flow: keras.layers.Layer,
        prior_flow: keras.layers.Layer,
        shell: Shell,
        latent_dim: int,
        dtype: Any,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.core_flow = core_flow
        self.prior_flow = prior_flow
        self.shell = shell
        self.latent_dim = latent_dim
        self.dtype = dtype

    # What the networks say. A condition on the model will enter here, and in
    # `bijector_of`: no density, sample or estimate calls a network or a flow elsewhere.

    def encode_event(self, event: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns g_m and g_s of events as the encoder sees them, `[..., d]` each."""
        return self.encoder(event)

    def decode_event(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns location and scale of whole events, `[..., *event_shape]` each."""
        return self.decoder(z)

    def encoded(self, shell: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns g_m(shell) and g_s(shell), `[..., d]` each."""
        return with_flat_batch(
            lambda flat: self.encode_event(self.shell.to_event(flat)),
            shell,
            event_ndims=1,
        )

    def decoded(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f(z) and sigma(z), `[..., m]` each."""
        return with_flat_batch(
            lambda flat: tuple(map(self.shell.of_event, self.decode_event(flat))),
            z,
            event_ndims=1,
        )

    # The bijector.

    def parts(self, encoded: Any = None) -> dict[str, tfb.Bijector]:
        """Returns the bijectors of pairs by name, from data to base.

        Args:
            encoded: What `encoded` says of the shell, where that is known; None asks.
        """

        def known(_: tf.Tensor) -> Any:
            return encoded

        return {
            "core_flow": _of_first(self.core_flow),
            "encoder": encoder_coupling(self.encoded if encoded is None else known),
            "decoder": decoder_coupling(self.decoded),
            "prior_flow": _of_first(self.prior_flow),
        }

    @property
    def bijector(self) -> tfb.Bijector:
        """Bijector from (z0, deviations) to (core, shell)."""
        return chain(list(self.parts().values()))

    @property
    def autoencoder(self) -> tfb.Bijector:
        """Bijector from (z, deviations) to (core, shell): all but the prior."""
        return chain(list(self.parts().values())[:-1])

    def latents(self, core: tf.Tensor, shell: tf.Tensor) -> tf.Tensor:
        """Returns the latents z of pairs, `[..., d]`."""
        return self.latents_of(core, self.encoded(shell))[0]

    def latents_of(self, core: tf.Tensor, encoded: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns z = g_m + g_s * u of cores, and log |det dz / dcore|, `[...]`."""
        loc, scale = encoded
        bijector = bijector_of(self.core_flow)
        core = tf.identity(core)
        log_det = bijector.inverse_log_det_jacobian(core, 1)
        log_scale = tf.reduce_sum(tf.math.log(scale), axis=-1)
        return loc + scale * bijector.inverse(core), log_det + log_scale

    # The densities.

    def terms(
        self, core: tf.Tensor, shell: tf.Tensor, encoded: Any = None
    ) -> dict[str, tf.Tensor]:
        """Returns the terms of log p(core, shell), whose sum it is, in nats."""
        return self._terms(self.parts(encoded), [core, shell])

    def log_prob(self, core: tf.Tensor, shell: tf.Tensor, encoded: Any = None) -> Any:
        """Returns log p(core, shell) in nats, `[...]` (eq. 7 and 10)."""
        return sum(self.terms(core, shell, encoded).values())

    def latent_log_prob(self, z: tf.Tensor, shell: tf.Tensor) -> Any:
        """Returns log p(z) + log p(shell | z) in nats, `[...]`."""
        parts = self.parts()
        right = {name: parts[name] for name in ("decoder", "prior_flow")}
        return sum(self._terms(right, [tf.identity(z), shell]).values())

    def _terms(self, parts: Mapping[str, tfb.Bijector], pair: list) -> dict[str, Any]:
        # TFP would make the same of nested distributions, take a fifth longer to trace
        # it, and XLA to compile it.
        terms = {}
        for name, bijector in parts.items():
            terms[f"{name}_log_det"] = bijector.inverse_log_det_jacobian(pair, [1, 1])
            pair = bijector.inverse(pair)
        for name, deviations in zip(("prior", "residual"), pair, strict=True):
            normal = standard_normal(deviations.shape[-1], self.dtype)
            terms[name] = normal.log_prob(deviations)
        return terms

    @property
    def base(self) -> tfd.Distribution:
        """Standard normal over pairs (z0 `[d]`, deviations `[m]`)."""
        sizes = self.latent_dim, self.shell.size
        normals = [standard_normal(size, self.dtype) for size in sizes]
        return tfd.JointDistributionSequential(normals)

    @property
    def prior(self) -> tfd.Distribution:
        """Distribution of the latents: the prior flow of a standard normal."""
        normal = standard_normal(self.latent_dim, self.dtype)
        return tfd.TransformedDistribution(normal, bijector_of(self.prior_flow))

    @property
    def distribution(self) -> tfd.Distribution:
        """Distribution of the pair (core, shell)."""
        return tfd.TransformedDistribution(self.base, self.bijector)

    @property
    def latent_distribution(self) -> tfd.Distribution:
        """Distribution of the pair (z, shell)."""
        parts = list(self.parts().values())[-2:]
        return tfd.TransformedDistribution(self.base, chain(parts))

    # Both directions as users ask for them.

    def generate(self, base: tf.Tensor) -> tf.Tensor:
        """Returns the latents of base noise z0 `[..., d]`."""
        return bijector_of(self.prior_flow).forward(base)

    def adapt(self, core: tf.Tensor, shell: tf.Tensor, events_per_pass: int) -> Any:
        """Initializes the ActNorms of both flows from pairs; returns their latents."""
        u = flows.adapt_inverse(self.core_flow, core)
        loc, scale = in_passes(self.encoded, shell, events_per_pass)
        z = loc + scale * u
        flows.adapt_inverse(self.prior_flow, z)
        return z

    @property
    def flows_of_user(self) -> list[keras.layers.Layer]:
        """Flows whose layers TFP may call several times for one evaluation."""
        return list(filter(is_of_user, (self.core_flow, self.prior_flow)))


def _of_first(flow: keras.layers.Layer) -> tfb.Bijector:
    """A flow over the first of a pair; the second stays as it is."""
    return chain([tfb.JointMap([bijector_of(flow), tfb.Identity()])])
