"""Where batches of all kinds of data meet: a check on the host before each step."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from aef_tfp.engine.examples import unpack_batch
from aef_tfp.engine.refusals import Refusals

__all__ = ["Gate"]


class Gate:
    """Shows the values of each batch to a check, and stops what the check refuses.

    Arrays can be looked at as a whole; what a data set, a generator or another worker
    gives is known only when its turn comes, within a graph. There the check is a call
    back into Python, once per batch and outside of any compiled step.

    Args:
        check: Takes one batch `[n, ...]`, and raises a `ValueError` for the user.
        shape: Of one event, for batches whose shape is not known beforehand.
        refusals: Keeps what the check raises.

    Example:
        >>> gate = Gate(model.events.check, model.event_shape, refusals)
        >>> with refusals.telling():
        ...     run(iterator)  # calls gate.admitted(batch) in its graph
    """

    def __init__(
        self,
        check: Callable[[np.ndarray], None],
        shape: Sequence[int],
        refusals: Refusals,
    ):
        self._check = check
        self._shape = (None, *shape)
        self._refusals = refusals

    def admitted(self, data: Any) -> Any:
        """Returns a batch of one replica, to be used in place of `data`."""
        x = tf.convert_to_tensor(unpack_batch(data))
        with tf.control_dependencies([tf.numpy_function(self._look, [x], tf.bool)]):
            return tf.ensure_shape(x, self._shape)

    def _look(self, x: np.ndarray) -> bool:
        with self._refusals.kept():
            self._check(x)
        return True
