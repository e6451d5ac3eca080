"""One pass through a model's layers as Keras has it: mode, noise, losses, updates."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from aef_tfp.bijectors.reuse import one_evaluation
from aef_tfp.models.noise import fold_seed
from aef_tfp.networks.mode import training_mode

__all__ = ["Pass", "run_layers"]

# Keras's name of the variable that every seeded layer draws from.
_SEED_STATE = "seed_generator_state"


class Pass(NamedTuple):
    """What layers did beside their outputs.

    Args:
        result: What the function returned.
        losses: Scalars of `add_loss` and of activity regularizers.
        penalties: Scalars of weight regularizers.
        updates: Variables that layers assigned, with their new values: statistics of
            BatchNormalization, the normalized kernel of SpectralNormalization.
        sources: What the gradient is taken by in place of each trainable variable: the
            new value where a layer assigned one, or else the variable.
    """

    result: Any
    losses: list[tf.Tensor]
    penalties: list[tf.Tensor]
    updates: list[tuple[keras.Variable, tf.Tensor]]
    sources: list[Any]

    def regularization(self, loss_weight: Any, penalty_weight: float) -> tf.Tensor:
        """Returns the weighted sum of what layers add to the loss.

        Args:
            loss_weight: Of `losses`, which are means over this part of a batch; 0 of an
                empty one.
            penalty_weight: Of `penalties`.
        """
        dtype = self.result.dtype
        total = tf.zeros([], dtype)
        for loss in self.losses:
            # A mean over no example is not zero.
            weighted = loss_weight * tf.cast(loss, dtype)
            total += tf.where(loss_weight > 0, weighted, tf.zeros_like(weighted))
        for penalty in self.penalties:
            total += penalty_weight * tf.cast(penalty, dtype)
        return total


def run_layers(
    function: Callable[[], Any],
    variables: Sequence[keras.Variable],
    *,
    training: bool,
    seed: tf.Tensor,
    tape: tf.GradientTape | None = None,
) -> Pass:
    """Calls a function whose layers neither keep nor change anything.

    What a layer assigns is read back within the pass, and returned: who calls decides
    whether it holds, which a step that is not finite must not, and how replicas agree.
    Random layers draw from the seed, in the order in which they first do so, and not
    from their own generators, whose state no file holds.

    Args:
        function: Calls layers and returns anything.
        variables: Trainable variables of the model.
        training: The mode of all layers.
        seed: Stateless seed, `[2]`.
        tape: Watches the values that layers assign to trainable variables.
    """
    with (
        one_evaluation(),
        training_mode(training),
        _Scope(seed, tape) as scope,
    ):
        result = _Entry(function)(tf.zeros([]), training=training)
        sources = [scope.source(variable) for variable in variables]
        penalties = [
            variable.regularizer(source)
            for variable, source in zip(variables, sources, strict=True)
            if variable.regularizer is not None
        ]
    return Pass(
        result, list(scope.losses), penalties, list(scope.updates.values()), sources
    )


class _Entry(keras.layers.Layer):
    """The outermost layer of a pass: those within take its mode, through bijectors."""

    def __init__(self, function: Callable[[], Any]):
        super().__init__(name="layers", dtype="float32", autocast=False)
        self._function = function

    def call(self, _, training=False):
        return self._function()


class _Scope(keras.StatelessScope):
    """Keras's scope without side effects, with noise of ours, and a tape."""

    def __init__(self, seed: tf.Tensor, tape: tf.GradientTape | None):
        super().__init__(collect_losses=True)
        self.updates: dict[int, tuple[keras.Variable, tf.Tensor]] = {}
        self._seed = seed
        self._tape = tape
        self._num_generators = 0

    def source(self, variable: keras.Variable) -> Any:
        """The value that a layer assigned to a variable, or else the variable."""
        assigned = self.updates.get(id(variable))
        return variable if assigned is None else assigned[1]

    def add_update(self, update):
        variable, value = update
        value = tf.cast(value, variable.dtype)
        if variable.name != _SEED_STATE:
            if variable.trainable and self._tape is not None:
                # As where a variable is assigned: the gradient is that of the new
                # value, not of how it came about.
                value = tf.stop_gradient(value)
                self._tape.watch(value)
            self.updates[id(variable)] = (variable, value)
        super().add_update((variable, value))

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None and variable.name == _SEED_STATE:
            bits = fold_seed(self._seed, self._num_generators)
            self._num_generators += 1
            # 32 bits without a sign, which is what any type of Keras's seeds holds.
            value = tf.math.floormod(tf.cast(bits, tf.int64), 2**32)
            value = tf.cast(value, variable.dtype)
            super().add_update((variable, value))
        return value
