"""One pass through a model's layers as Keras has it: mode, noise, losses, updates."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from aef_tfp.bijectors.reuse import one_evaluation
from aef_tfp.engine.noise import fold_seed
from aef_tfp.networks.mode import run_in_mode

__all__ = ["Pass", "run_layers"]

# Keras's name of the variable that every seeded layer draws from.
_SEED_STATE = "seed_generator_state"


@dataclasses.dataclass(frozen=True)
class Pass:
    """What layers did beside their outputs.

    Args:
        result: What the function returned.
        losses: Scalars of `add_loss` and of activity regularizers.
        penalties: Scalars of weight regularizers.
        updates: Variables that layers assigned, with their new values: statistics of
            BatchNormalization, the normalized kernel of SpectralNormalization.
        sources: What the gradient is taken by in place of each trainable variable: the
            new value where a layer assigned one, or else the variable.
        again: Calls a function whose layers see the pass as it was when it began, and
            change nothing: layers that are recomputed for the gradient.
    """

    result: Any
    losses: list[tf.Tensor]
    penalties: list[tf.Tensor]
    updates: list[tuple[keras.Variable, tf.Tensor]]
    sources: list[Any]
    again: Callable[[Callable[[], Any]], Any]

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
            # Keras sums a loss that is no scalar. A mean over no example is not zero.
            weighted = loss_weight * tf.reduce_sum(tf.cast(loss, dtype))
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
    repeated: Sequence[keras.Variable] = (),
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
        repeated: Variables of layers that are called several times for what is one
            evaluation, as TFP calls the networks of a user's flow for a value and for
            its log-determinant: each call draws the same, and learns as if alone.

    Raises:
        ValueError: If a layer draws or assigns inside a loop or branch of a graph.
    """
    scope = _Scope(seed, tape, repeated)
    with one_evaluation(), scope:
        result = run_in_mode(function, training)
        sources = [scope.source(variable) for variable in variables]
        penalties = [
            variable.regularizer(source)
            for variable, source in zip(variables, sources, strict=True)
            if variable.regularizer is not None
        ]

    def again(function: Callable[[], Any]) -> Any:
        with one_evaluation(), scope.replaying(), scope:
            return run_in_mode(function, training)

    return Pass(
        result,
        list(scope.losses),
        penalties,
        list(scope.updates.values()),
        sources,
        again,
    )


class _Scope(keras.StatelessScope):
    """Keras's scope without side effects, with noise of ours, and a tape."""

    state_mapping: dict[int, Any]
    losses: list[tf.Tensor]

    def __init__(self, seed, tape, repeated):
        super().__init__(collect_losses=True)
        self.updates: dict[int, tuple[keras.Variable, tf.Tensor]] = {}
        self._seed = seed
        self._tape = tape
        self._repeated = {id(variable) for variable in repeated}
        self._first_seeds: dict[int, tf.Tensor] = {}
        self._replays = False
        self._place = _graph()

    def source(self, variable: keras.Variable) -> Any:
        """The value that a layer assigned to a variable, or else the variable."""
        assigned = self.updates.get(id(variable))
        return variable if assigned is None else assigned[1]

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Within it, layers see and draw what they did at first, and change nothing."""
        mapping, losses = self.state_mapping, self.losses
        self.state_mapping, self.losses = dict(self._first_seeds), []
        self._replays = True
        try:
            yield
        finally:
            self.state_mapping, self.losses = mapping, losses
            self._replays = False

    def add_update(self, update):
        variable, value = update
        if not self._replays:
            self._check_place(variable)
        if variable.name == _SEED_STATE:
            if id(variable) not in self._repeated:
                super().add_update(update)
            return
        if self._replays:
            super().add_update(update)
            return
        if variable.trainable and self._tape is not None:
            # As where a variable is assigned: the gradient is that of the new value,
            # not of how it came about.
            value = tf.stop_gradient(value)
            self._tape.watch(value)
        self.updates[id(variable)] = (variable, value)
        if id(variable) not in self._repeated:
            super().add_update((variable, value))

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if variable.name != _SEED_STATE:
            return value
        if not self._replays:
            self._check_place(variable)
        if value is None:
            bits = fold_seed(self._seed, len(self._first_seeds))
            # 32 bits without a sign, which is what any type of Keras's seeds holds.
            value = tf.math.floormod(tf.cast(bits, tf.int64), 2**32)
            value = tf.cast(value, variable.dtype)
            self._first_seeds[id(variable)] = value
            super().add_update((variable, value))
        return value

    def _check_place(self, variable):
        if _graph() is not self._place:
            raise ValueError(
                f"A layer draws random numbers, or assigns {variable.path!r}, inside a "
                "loop or branch of a graph (a cell of an RNN, keras.ops.map or cond), "
                "which a step cannot honour; let it do so outside of them, or unroll "
                "the loop (RNN(..., unroll=True))."
            )


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
