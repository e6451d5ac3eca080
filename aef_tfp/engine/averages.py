"""Moving averages of the weights, which an optimizer with `use_ema` keeps."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from aef_tfp.engine.clipping import updating_optimizer

__all__ = ["Averages"]


class Averages:
    """The averages of a compiled model, and which weights the model has at present.

    An average is

        average <- momentum * average + (1 - momentum) * weight

    after each step; it begins as a copy of the weights after the first one, which it
    forgets in a few times 1 / (1 - momentum) steps. Weights that are not trained, like
    the statistics of BatchNormalization, are not averaged.

    Keras's `SwapEMAWeights` exchanges both by additions, which round. This one copies:
    what is trained further is what was there before, to the last digit.

    Args:
        optimizer: The model's; if it keeps no averages, there are none to exchange.

    Attributes:
        are_validated: Whether what `fit` validates are the averages.
        is_validating: Whether an evaluation that runs is one of `fit` itself.
    """

    def __init__(self, optimizer: keras.Optimizer):
        self.optimizer = optimizer
        self.are_validated = self.is_validating = False
        self._trained: list[np.ndarray] | None = None
        self._swaps: list[keras.callbacks.SwapEMAWeights] = []

    @property
    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Weights and their averages, where Keras keeps them."""
        optimizer = updating_optimizer(self.optimizer)
        averages = getattr(optimizer, "_model_variables_moving_average", None)
        if not averages:
            return []
        return list(zip(optimizer._trainable_variables, averages, strict=True))

    @property
    def exist(self) -> bool:
        """Whether the optimizer keeps averages."""
        return bool(self._pairs)

    @property
    def weights(self) -> list[keras.Variable]:
        """The weights that are averaged."""
        return [weight for weight, _ in self._pairs]

    @property
    def are_in_model(self) -> bool:
        """Whether the model has the averages for weights at present."""
        swapped = any(swap._ema_weights_in_model for swap in self._swaps)
        return self._trained is not None or swapped

    @property
    def are_exchanged_by_keras(self) -> bool:
        """Whether `fit` has a `SwapEMAWeights`."""
        return bool(self._swaps)

    @property
    def stay_after_epoch(self) -> bool:
        """Whether a `SwapEMAWeights` leaves them in the model at the end of epochs."""
        return any(swap.swap_on_epoch for swap in self._swaps)

    @property
    def equal_weights(self) -> bool:
        """Whether the model's weights have the values of the averages."""
        return all(
            np.array_equal(weight.numpy(), average.numpy())
            for weight, average in self._pairs
        )

    def watch(self, callbacks: Any) -> None:
        """Takes note of Keras's own callbacks that exchange the weights.

        Args:
            callbacks: As `fit` takes them; None where it ends.
        """
        given = getattr(callbacks, "callbacks", callbacks)
        given = given if isinstance(given, (list, tuple)) else [given]
        kind = keras.callbacks.SwapEMAWeights
        self._swaps = [callback for callback in given if isinstance(callback, kind)]
        # Before the first validation, too. What the `fit` before this one did says
        # nothing of it.
        self.are_validated = bool(self._swaps)

    def note_evaluation(self) -> None:
        """Takes note of what `fit` validates.

        What a user's callback evaluates in between is no validation.
        """
        if self.is_validating:
            self.are_validated = self.are_in_model

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """Within it, the model has the averages for weights, if there are any.

        One within another changes nothing more.
        """
        if self.are_in_model:
            yield
            return
        try:
            self.put_in()
            yield
        finally:
            self.put_back()

    def validated(self) -> contextlib.AbstractContextManager[None]:
        """Within it, the model has the weights that `fit` validates."""
        return self.in_model() if self.are_validated else contextlib.nullcontext()

    def put_in(self) -> None:
        """Gives the model the averages, until `put_back`."""
        if self.are_in_model or not self.exist:
            return
        # Whatever interrupts what follows, these are there to be put back.
        self._trained = self.copy()
        for weight, average in self._pairs:
            weight.assign(average.numpy())

    def put_back(self) -> None:
        """Gives the model the weights in training, if `put_in` has exchanged them."""
        if self._trained is not None:
            self.assign(self._trained)
            self._trained = None

    def copy(self) -> list[np.ndarray]:
        """Returns the model's present values of the weights that are averaged."""
        return [np.array(weight.numpy()) for weight in self.weights]

    def assign(self, values: list[np.ndarray]) -> None:
        """Gives the model values that `copy` returned."""
        for weight, value in zip(self.weights, values, strict=True):
            weight.assign(value)
