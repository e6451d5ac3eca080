"""Models whose likelihood is exact."""

from abc import abstractmethod
from typing import Any

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from aef_tfp.engine.tracing import traced
from aef_tfp.models.generative import GenerativeModel

__all__ = ["ExactModel"]


class ExactModel(GenerativeModel):
    """A bijector from noise to the event, so a distribution (abstract).

    Training maximizes `log_prob`, the likelihood itself. Arguments as in `EventModel`.
    """

    @property
    @abstractmethod
    def distribution(self) -> tfd.TransformedDistribution:
        """The model as a distribution over events in [0, 1]^N (or R^N for vectors)."""

    @property
    def bits_per_dim_name(self) -> str:
        """The likelihood is exact: the plain name."""
        return "bits_per_dim"

    def log_prob(self, x: Any, *, seed: int | None = None) -> tf.Tensor:
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
        return self._of_events(self._log_prob, x, seed)

    @traced
    def _log_prob(self, x, seed):
        return self._objective_without_noise(x, seed)

    def _objective_of(self, inputs, targets, seed):
        """Log-density of dequantized events (eq. 7), nats, `[batch]`."""
        return self.distribution.log_prob(tf.identity(targets))
