"""Importance sampling: what an estimate of log p(x) is, and how it is gathered."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

__all__ = ["PROPOSALS", "ImportanceEstimate", "gather_weights"]

PROPOSALS = ("encoder", "laplace")


@dataclasses.dataclass(frozen=True)
class ImportanceEstimate:
    """An estimate of log p(x) from R repeats of K weights v = p(x, w) / q(w | x).

    Args:
        log_sums: Log of the sum of each repeat's weights, `[num_repeats, batch]`.
        log_square_sum: Log of the sum of all squared weights, `[batch]`.
        num_samples: K, weights per repeat.
    """

    log_sums: tf.Tensor
    log_square_sum: tf.Tensor
    num_samples: int

    @property
    def num_repeats(self) -> int:
        """R."""
        return int(self.log_sums.shape[0])

    @property
    def log_prob(self) -> tf.Tensor:
        """Log of the mean of all R K weights, nats, `[batch]` (eq. 17, 18).

        The repeats are pooled inside the logarithm. On average it is a lower bound of
        log p(x), which tightens as R K grows.
        """
        total = float(np.log(self.num_repeats * self.num_samples))
        return tf.reduce_logsumexp(self.log_sums, axis=0) - total

    @property
    def effective_sample_size(self) -> tf.Tensor:
        """(sum v)^2 / sum v^2 of all weights, `[batch]`, from 1 to R K."""
        log_sum = tf.reduce_logsumexp(self.log_sums, axis=0)
        return tf.exp(2.0 * log_sum - self.log_square_sum)

    @property
    def paper_log_prob_without_log_k(self) -> tf.Tensor:
        """The estimator of the paper's code for the linear AEF, nats, `[batch]`.

        The mean over repeats of log sum_k v_k: without `- log K`, which makes it log K
        too high (4.85 nats at K = 128), and with the repeats averaged outside the
        logarithm. It is no estimate of log p(x), and serves for comparing with the
        paper's tables alone.
        """
        return tf.reduce_mean(self.log_sums, axis=0)


def gather_weights(
    log_weights: Callable[[tf.Tensor], tf.Tensor],
    repeats: Iterable[tf.Tensor],
    num_samples: int,
    samples_per_pass: int,
    log_det: tf.Tensor,
) -> ImportanceEstimate:
    """Sums weights over passes of bounded size.

    Args:
        log_weights: Maps seeds `[samples, 2]` to log weights `[samples, batch]`.
        repeats: Seeds `[num_samples, 2]` of each repeat.
        num_samples: K.
        samples_per_pass: Samples of one call of `log_weights` at most.
        log_det: Added to every log weight, `[batch]`.
    """
    log_sums, log_square_sum = [], None
    for seeds in repeats:
        log_sum = None
        for start in range(0, num_samples, samples_per_pass):
            values = log_weights(seeds[start : start + samples_per_pass]) + log_det
            log_sum = _added(log_sum, tf.reduce_logsumexp(values, axis=0))
            square = tf.reduce_logsumexp(2.0 * values, axis=0)
            log_square_sum = _added(log_square_sum, square)
        log_sums.append(log_sum)
    return ImportanceEstimate(tf.stack(log_sums), log_square_sum, num_samples)


def _added(total: tf.Tensor | None, value: tf.Tensor) -> tf.Tensor:
    """Log of the sum of two numbers given by their logs; None stands for zero."""
    return value if total is None else tf.reduce_logsumexp([total, value], axis=0)
