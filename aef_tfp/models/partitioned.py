"""The partitioned family: a true bijector of the event, an exact likelihood."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from aef_tfp.bijectors import Partition, partition_mask
from aef_tfp.bijectors.reuse import chain
from aef_tfp.engine.arguments import checked_count
from aef_tfp.models.chain import PartialShell
from aef_tfp.models.chained import Chained
from aef_tfp.models.density import Exact
from aef_tfp.models.event_model import EventModel

__all__ = ["PartitionedAEF"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class PartitionedAEF(Exact, Chained, EventModel):
    """AEF whose core is a part of the event, trained by exact maximum likelihood.

    A mask of `latent_dim` entries splits an event into core and shell. From data to
    base (section 3.1 of the paper):

        u = core_flow.inverse(core)
        z = g_m(shell) + g_s(shell) * u                          (eq. 4)
        deviations = (shell - f(z)) / sigma(z)                   (eq. 5)
        z0 = prior_flow.inverse(z)

    so the model is a bijector from (z0, deviations) to the event, and `log_prob` is
    exact (eq. 7). Encoder and decoder see whole events with zeros in place of the core,
    so the networks of an autoencoder fit as they are. One evaluation costs one pass
    through each network.

    Args:
        event_shape: Shape of one event: `(H, W, C)` of images, `(n,)` of vectors.
        latent_dim: Number of latents d, and of core entries, from 1 to N - 1.
        partition: Which entries are the core: `"center"`, `"corner"`, `"random"`, or a
            boolean array of shape `event_shape` with `latent_dim` true entries.
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
        num_levels: Number of values of integer data; `"auto"` means 256 for images.
            None: the data are continuous.
        logit_lambda: Lambda of the pixel logit (eq. 19), in [0, 0.5); `"auto"` means
            1e-6 for images of one channel, 0.05 for more, None for vectors. None: the
            data are any real numbers, and noisy ones leave [0, 1].
        noise_std: Standard deviation of the noise on training events (denoising,
            appendix B), at least 0.
        denoising_target: `"noisy"`: training maximizes the density of noisy events.
        seed: Seed of all noise of `fit` and `evaluate`, and of a random partition, from
            0 to 2**64 - 1.
        name: Name of the model.
        dtype: Keras's policy: `"float32"`, `"float64"`, or `"mixed_bfloat16"` for the
            networks, with densities in float32. None: Keras's present one.

    Raises:
        ValueError: If an argument is out of its range, or `denoising_target` is
            `"clean"`: the encoding starts from the core's own pixels, which are noisy
            when one denoises, so there is no density of the clean event given them.

    Example:
        >>> model = PartitionedAEF((8, 8, 1), latent_dim=8, num_levels=17)
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> history = model.fit(images, batch_size=64, epochs=10)  # uint8, 0 ... 16
        >>> model.log_prob(images[:4]).shape
        TensorShape([4])

    Reference: Silvestri, Roos, Ambrogioni, "Deterministic training of generative
    autoencoders using invertible layers", ICLR 2023.
    """

    # Its core comes out of a flow in the sequential direction.
    decodes_in_parallel: ClassVar[bool] = False

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        partition: Any = "center",
        encoder: Any = None,
        decoder: Any = None,
        decoder_scale: str = "independent",
        initial_raw_scale: float | None = None,
        prior_flow: Any = "maf",
        core_flow: Any = "maf",
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
        checked_count("latent_dim", latent_dim)
        mask = partition_mask(partition, self.event_shape, latent_dim, seed=self.seed)
        mask.setflags(write=False)
        self._make_networks(
            latent_dim, encoder, decoder, decoder_scale, initial_raw_scale
        )
        # By its name, a random one would be another in files and copies that are made
        # once `seed` has been set anew.
        is_named = isinstance(partition, str) and partition != "random"
        self._core_is = partition if is_named else mask
        self._partition = Partition(mask)
        shell_size = self.event_size - self.latent_dim
        shell = PartialShell(self._partition, self.latent_dim, shell_size)
        self._make_chain(prior_flow, core_flow, shell)
        self._complete()

    _why_only_noisy = (
        "its core is a part of the noisy event; use 'noisy', or an ExpandedAEF"
    )

    @property
    def partition(self) -> Any:
        """Which entries are the core, by name, or as a mask; fixed, like layers."""
        return self._core_is

    @property
    def distribution(self) -> tfd.TransformedDistribution:
        """The model as a distribution over events; see `Exact`."""
        return tfd.TransformedDistribution(
            self.chain.base,
            chain([self.preprocessing.bijector, self._partition, self.chain.bijector]),
        )

    @property
    def _event_bijector(self) -> tfb.Bijector:
        """Bijector from (z, deviations) to the event."""
        return chain(
            [self.preprocessing.bijector, self._partition, self.chain.autoencoder]
        )

    def _objective_of(self, inputs, targets, seed):
        """Log-density of dequantized events (eq. 7), nats, `[batch]`."""
        y, log_det = self._preprocess(targets)
        return self.chain.log_prob(*self._partition.inverse(y)) + log_det

    def _core_of(self, y, seed):
        return self._partition.inverse(y)[0], {}

    def _decode(self, z, deviations):
        if deviations is None:
            size = self.chain.shell.size
            deviations = tf.zeros([tf.shape(z)[0], size], z.dtype)
        return self._event_bijector.forward([z, deviations])
