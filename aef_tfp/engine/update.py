"""One update of all weights: a Keras optimizer on a few vectors of them.

Keras applies an optimizer to each weight by itself: of an AEF's 131 weights Adam makes
6,000 operations, whose graph takes longer to build than its first steps to run. What an
optimizer does to each entry alone it can as well do to many weights at once.
"""

import contextlib
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.clipping import having, num_steps, updating_optimizer

__all__ = ["FlatUpdate", "Update", "update_of"]

Finish = Callable[[Sequence[Any]], Sequence[Any]]
"""Maps gradients, some of them None, to gradients of the same shapes."""

# Of a vector, about. What is copied into one of 2 MB is still in the processor's cache
# when the optimizer reads it. With all weights in one, the paper's model takes a tenth
# longer for a step; each vector more is that many operations more in the graph.
_VECTOR_SIZE = 2**19

# Their update of an entry depends on that entry's own gradients and state alone.
# Subclasses may do otherwise.
_ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.Ftrl,
    keras.optimizers.Lion,
)

# Their state begins at the same values whatever the weights are.
_INDEPENDENT = (
    *_ELEMENTWISE,
    keras.optimizers.Adafactor,
    keras.optimizers.Lamb,
    keras.optimizers.Muon,
)


class Update:
    """Keras's own way: the optimizer goes through the weights.

    Args:
        optimizer: Any optimizer of Keras.
        variables: The trainable weights.
    """

    def __init__(self, optimizer: keras.Optimizer, variables: Sequence[keras.Variable]):
        self.optimizer = optimizer
        self._weights = list(variables)
        self._build()

    def _build(self) -> None:
        self.optimizer.build(self._weights)

    def knows(self, variables: Sequence[keras.Variable]) -> bool:
        """Whether it was made for these weights, and maybe for others."""
        return set(_ids(variables)) <= set(_ids(self._weights))

    def came_too_late(self) -> str | None:
        """Names a setting that the optimizer was built without."""
        optimizer = updating_optimizer(self.optimizer)
        if optimizer.use_ema and not getattr(
            optimizer, "_model_variables_moving_average", None
        ):
            return "use_ema"
        if optimizer.gradient_accumulation_steps and not getattr(
            optimizer, "_accumulated_gradients", None
        ):
            return "gradient_accumulation_steps"
        return None

    def begin(self) -> None:
        """Lets the optimizer begin at the present weights, if it made no step yet.

        Some keep a copy of the weights (`ScheduleFreeAdamW`) from when they were built.
        Keras builds at the first step, and this one when the model is compiled; in
        between, weights are loaded and ActNorm is initialized.
        """
        optimizer = updating_optimizer(self.optimizer)
        if type(optimizer) in _INDEPENDENT or int(num_steps(optimizer).numpy()):
            return
        try:
            with warnings.catch_warnings():
                # That a configuration with a function is not safe to keep.
                warnings.simplefilter("ignore")
                fresh = type(optimizer).from_config(optimizer.get_config())
        except (NotImplementedError, TypeError, ValueError):
            # A user's own that cannot be made again, nor saved.
            return
        fresh.build(self._weights)
        if len(fresh.variables) != len(optimizer.variables):
            return
        weights = [weight.numpy() for weight in self._weights]
        for variable, value in zip(optimizer.variables, fresh.variables, strict=True):
            # The rest is the user's: a configuration need not say all.
            if any(np.array_equal(value.numpy(), weight) for weight in weights):
                variable.assign(value)

    @contextlib.contextmanager
    def around(
        self, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> Iterator[None]:
        """Around `apply`; outside of any replica, if there are several.

        Args:
            gradients: What `apply` gets, or its replicas.
            variables: Their weights.
        """
        yield

    def apply(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        finish: Finish = lambda gradients: gradients,
    ) -> None:
        """Updates what the optimizer was built for; in each replica.

        Args:
            gradients: Of each weight, or None.
            variables: The weights.
            finish: What is done to the gradients before the optimizer gets them, each
                by itself, or each part of it.
        """
        parts, updated = self._parts(gradients, variables)
        self.optimizer.apply(finish(parts), updated)

    def _parts(
        self, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """The gradients, and what is updated, as the optimizer has them."""
        return gradients, variables


class FlatUpdate(Update):
    """The optimizer is built for, and goes through, a few vectors of all weights.

    A vector has what the optimizer adds to its weights. Where an optimizer looks at the
    weights themselves, for a decay, they are copied into the vectors before the update
    and out of them afterwards. So whoever sets a weight in between is heard. The
    optimizer's state is that of the vectors: Keras saves and loads it with the
    optimizer.

    Moving averages (`use_ema`) are those of the weights themselves, where Keras looks
    for them: at the end of `fit`, and in `SwapEMAWeights`. As in Keras, they begin as a
    copy of the weights after the first step.

    Args:
        optimizer: One of `_ELEMENTWISE`.
        variables: The trainable weights, of one dtype.
    """

    def __init__(self, optimizer: keras.Optimizer, variables: Sequence[keras.Variable]):
        self._sizes = [int(np.prod(variable.shape)) for variable in variables]
        self._groups = _groups(self._sizes)
        super().__init__(optimizer, variables)

    @property
    def _copies(self) -> bool:
        """Whether the optimizer, as it is set now, looks at the weights themselves."""
        optimizer = self.optimizer
        return bool(optimizer.weight_decay) or type(optimizer) is keras.optimizers.Ftrl

    def came_too_late(self) -> str | None:
        """Names a setting that wants each weight by itself."""
        return super().came_too_late() or _apart(self.optimizer, self._weights)

    def _build(self) -> None:
        former = _vectors_of(self.optimizer)
        if former is not None:
            self.vectors: list[keras.Variable] = former
            return
        self.vectors = [
            keras.Variable(
                initializer="zeros",
                shape=(sum(self._sizes[i] for i in group),),
                dtype=self._weights[0].dtype,
                name=f"weights_{number}",
            )
            for number, group in enumerate(self._groups)
        ]
        optimizer = self.optimizer
        # Else it would average the vectors, which nothing but the update looks at.
        with having(optimizer, use_ema=False):
            optimizer.build(self.vectors)
        # In an object of its own, since Keras takes variables for the optimizer's
        # state; for whoever compiles with the same optimizer next.
        optimizer.flat_update = types.SimpleNamespace(
            vectors=self.vectors, made_of=_ids(self._weights)
        )
        optimizer.load_own_variables = types.MethodType(load_own_variables, optimizer)
        if optimizer.use_ema:
            # What all optimizers share, which is the averages alone.
            with having(optimizer, gradient_accumulation_steps=None):
                keras.optimizers.Optimizer.build(optimizer, self._weights)

    @contextlib.contextmanager
    def around(
        self, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> Iterator[None]:
        """Readies the vectors and empties them; then averages the weights."""
        values = [weight.value for weight in self._weights]
        for vector, group in zip(self.vectors, self._groups, strict=True):
            zeros = tf.zeros_like(vector.value)
            vector.assign(_joined(values, group) if self._copies else zeros)
        # Keras would average weights that have their values after it only. Replicas
        # are threads, which cannot each set this and set it back.
        with having(self.optimizer, use_ema=False):
            yield
        self._spread(gradients, variables)
        if self.optimizer.use_ema:
            self._average()

    def _parts(
        self, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """The vectors; a weight without a gradient counts as one of zero."""
        given = dict(zip(map(id, variables), gradients, strict=True))
        present = [given.get(id(weight)) for weight in self._weights]
        whole = [
            tf.zeros(weight.shape, weight.dtype)
            if gradient is None
            else tf.convert_to_tensor(gradient)
            for gradient, weight in zip(present, self._weights, strict=True)
        ]
        return [_joined(whole, group) for group in self._groups], self.vectors

    def _spread(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Gives the weights that had a gradient what the vectors have for them."""
        parts: dict[int, tf.Tensor] = {}
        for vector, group in zip(self.vectors, self._groups, strict=True):
            split = tf.split(vector.value, [self._sizes[i] for i in group])
            for i, part in zip(group, split, strict=True):
                weight = self._weights[i]
                parts[id(weight)] = tf.reshape(part, weight.shape)
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                continue
            if self._copies:
                variable.assign(parts[id(variable)])
            else:
                variable.assign_add(parts[id(variable)])

    def _average(self) -> None:
        """Moves the averages towards the weights, as Keras does after its update."""
        steps_before = tf.convert_to_tensor(num_steps(self.optimizer)) - 1
        # Keras counts updates, each of several accumulated gradients.
        per_update = self.optimizer.gradient_accumulation_steps or 1
        is_first = steps_before < per_update
        dtype = self._weights[0].dtype
        momentum = tf.cast(~is_first, dtype) * self.optimizer.ema_momentum
        averages = self.optimizer._model_variables_moving_average
        for average, weight in zip(averages, self._weights, strict=True):
            kept = momentum * average.value
            average.assign(kept + (1 - momentum) * weight.value)


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Places of neighbours whose sizes add up to about as much in each group."""
    ends = np.cumsum(sizes)
    number = max(1, round(ends[-1] / _VECTOR_SIZE))
    groups: list[list[int]] = [[] for _ in range(number)]
    for i, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        # By their middles.
        groups[int((end - size / 2) * number / (ends[-1] + 1))].append(i)
    return [group for group in groups if group]


def _joined(values: Sequence[tf.Tensor], group: Sequence[int]) -> tf.Tensor:
    return tf.concat([tf.reshape(values[i], [-1]) for i in group], axis=0)


def update_of(
    optimizer: keras.Optimizer, variables: Sequence[keras.Variable]
) -> Update:
    """Returns the update that an optimizer allows, and builds the optimizer for it.

    Args:
        optimizer: Any optimizer of Keras, one that was built for the same weights, too.
        variables: The trainable weights.

    Raises:
        ValueError: If the optimizer was built for other weights.
    """
    if not _may_update(optimizer, variables):
        raise ValueError(
            f"The optimizer {optimizer.name!r} was built for other weights, of another "
            "model or before layers were frozen or unfrozen: make a new one, e.g. "
            f"keras.optimizers.{type(optimizer).__name__}(...)."
        )
    return (FlatUpdate if _is_elementwise(optimizer, variables) else Update)(
        optimizer, variables
    )


def _is_elementwise(optimizer: Any, variables: Sequence[keras.Variable]) -> bool:
    if type(optimizer) not in _ELEMENTWISE or not variables:
        return False
    if optimizer.built:
        # For the vectors of an earlier compilation, or for the weights by the user.
        return _vectors_of(optimizer) is not None
    return _apart(optimizer, variables) is None and all(
        variable.dtype == variables[0].dtype
        and not getattr(variable, "overwrite_with_gradient", False)
        for variable in variables
    )


def _apart(optimizer: Any, variables: Sequence[keras.Variable]) -> str | None:
    """Names a setting for which each weight is updated by itself, if there is one."""
    if optimizer.clipnorm:
        return "clipnorm"
    if optimizer.use_ema and optimizer.ema_overwrite_frequency:
        return "ema_overwrite_frequency"
    if getattr(optimizer, "_exclude_from_weight_decay", None) or getattr(
        optimizer, "_exclude_from_weight_decay_pattern", None
    ):
        return "exclude_from_weight_decay"
    for variable in variables:
        if variable.constraint is not None:
            return f"The constraint of {variable.path}"
    return None


def _may_update(optimizer: Any, variables: Sequence[keras.Variable]) -> bool:
    """Whether an optimizer was built for these weights, or not yet."""
    built_for = getattr(optimizer, "_trainable_variables", None)
    if not optimizer.built or built_for is None:
        return True
    if _vectors_of(optimizer) is not None:
        return optimizer.flat_update.made_of == _ids(variables)
    return set(_ids(variables)) <= set(_ids(built_for))


def _ids(variables: Sequence[keras.Variable]) -> tuple[int, ...]:
    return tuple(map(id, variables))


def load_own_variables(self: keras.Optimizer, store: Any) -> None:
    """Loads an optimizer's state, if it is that of the same vectors.

    There are as many of them whatever is frozen, and Keras compares the number alone.
    """
    keys = map(str, range(len(store.keys())))
    found = [tuple(store[key].shape) for key in keys]
    own = [tuple(variable.shape) for variable in self.variables]
    if len(found) == len(own) and found != own:
        warnings.warn(
            f"The state of optimizer {self.name!r} is not loaded, since it is of other "
            "weights: layers were frozen, unfrozen or changed in between.",
            stacklevel=2,
        )
        return
    type(self).load_own_variables(self, store)


def _vectors_of(optimizer: keras.Optimizer) -> list[keras.Variable] | None:
    """The vectors that an optimizer was built for."""
    flat = getattr(optimizer, "flat_update", None)
    return None if flat is None else flat.vectors
