"""What models with a density have in common: names of numbers, and samples."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from aef_tfp.engine.arguments import check_fits_memory, checked_count, is_number
from aef_tfp.engine.noise import normal_noise, starting_at, stateless_seed
from aef_tfp.engine.tracing import traced
from aef_tfp.models.bits import bits_per_dim
from aef_tfp.models.likelihood import Likelihood
from aef_tfp.models.mixin import Mixin
from aef_tfp.networks.batching import joined, pass_sizes
from aef_tfp.networks.recursion import compiling_recursions

__all__ = ["Density", "Exact"]


class Density(Mixin):
    """A mixin of `EventModel` for models with a density and samples."""

    samples: ClassVar[bool] = True

    @abstractmethod
    def _generate(self, num_samples, temperature, with_deviations, seed) -> tf.Tensor:
        """Events `[num_samples, *event_shape]`; the arguments are those of `sample`."""

    def bits_per_dim(self, log_prob: Any) -> Any:
        """Converts nats per event to bits per dimension, quantization included."""
        return bits_per_dim(log_prob, self.event_size, self.events.num_levels)

    def objective_logs(self, loss: Any) -> dict[str, Any]:
        """Bits per dimension of the objective; whose, its name says."""
        name = self.likelihood.bits_per_dim_name
        if self.noise_std:
            name = f"{self.denoising_target}_target_{name}"
        return {name: self.bits_per_dim(-loss)}

    def sample(
        self,
        num_samples: int,
        temperature: float = 1.0,
        seed: int | tf.Tensor | None = None,
        *,
        with_deviations: bool = False,
    ) -> tf.Tensor:
        """Draws events: Algorithm 2 and 3 of the paper.

        Args:
            num_samples: At least 1.
            temperature: Standard deviation of the base noise, at least 0; the paper
                shows samples at 0.85.
            seed: Any integer for reproducible samples; None draws new ones each time.
            with_deviations: Add sigma(z) * deviations (at the same temperature) to the
                decoder's mean, which makes them samples of the density itself. A model
                without a decoder has no such mean, and samples its density always.

        Returns:
            `[num_samples, *event_shape]`; in (0, 1) where a pixel logit precedes the
            model.

        Raises:
            ValueError: If a number is out of its range.
        """
        checked_count("num_samples", num_samples)
        if not (is_number(temperature) and 0.0 <= temperature < np.inf):
            raise ValueError(
                "temperature must be a finite number of at least 0, got "
                f"{temperature!r}."
            )
        check_fits_memory(
            f"num_samples of {num_samples:,}",
            4 * num_samples * self.event_size,
            "draw fewer at a time",
        )
        whole, start, parts = stateless_seed(seed), 0, []
        for count in pass_sizes(num_samples, self._events_per_pass):
            parts.append(
                self._sample(
                    tf.constant(count, tf.int32),
                    # It may be a tensor of another type.
                    tf.constant(float(temperature), self.events.dtype),
                    with_deviations,
                    whole if count == num_samples else starting_at(whole, start),
                    # As in training, by Keras's own rule.
                    compiled=self.jit_compile and not self.run_eagerly,
                )
            )
            start += count
        return joined(parts)

    @traced
    def _sample(self, num_samples, temperature, with_deviations, seed, compiled=False):
        with compiling_recursions(compiled):
            return self._generate(num_samples, temperature, with_deviations, seed)

    def _noise(self, num_events, size, seed):
        return normal_noise([num_events, size], seed, self.events.dtype)


class Exact(Mixin):
    """A mixin of `EventModel` for bijectors from noise to the event."""

    @property
    @abstractmethod
    def distribution(self) -> tfd.TransformedDistribution:
        """The model as a distribution over events in [0, 1]^N (or R^N for vectors)."""

    @property
    def likelihood(self) -> Likelihood:
        """Training maximizes the likelihood itself."""
        return Likelihood("log_prob", self.log_prob, "", "exact log-likelihood")

    def log_prob(self, x: Any, *, seed: int | tf.Tensor | None = None) -> tf.Tensor:
        """Returns exact log-densities of events.

        Args:
            x: `[batch, *event_shape]`: integers below `num_levels`, or floats, taken as
                dequantized, in [0, 1] where a pixel logit precedes the model.
            seed: Seed of the dequantization of integers; None draws a new one.

        Returns:
            Nats per event, `[batch]`: the density of the (dequantized) event in
            [0, 1]^N, which can exceed 1, so its logarithm can be positive.

        Raises:
            ValueError: If `x` has a wrong shape, or values out of range.
        """
        return self._of_events(self._objective_in_graph, x, seed)
