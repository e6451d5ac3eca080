"""One step of training and one of evaluation: gradient, update, and what is counted."""

import contextlib
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.clipping import (
    clipping,
    loss_scale,
    num_steps,
    updating_optimizer,
    without_clipping,
)
from aef_tfp.engine.forward import Pass, run_layers
from aef_tfp.engine.noise import fold_seed, starting_at, stateless_seed
from aef_tfp.engine.replicas import (
    agreed,
    num_replicas,
    place_in_batch,
    replica_id,
    summed,
)
from aef_tfp.networks.rematerialization import rematerializing

__all__ = ["TEST", "TRAIN", "Steps"]

# Separates the noise of training from that of evaluation under one seed.
TRAIN, TEST = 0, 1

# Stream of the layers' own noise under a step's seed; the models count from 0.
_LAYERS = 2**30

_AS_IT_IS = contextlib.nullcontext()

# Of a type checker, a mixin has what `keras.Model` has.
_Mixed: Any = keras.Model if TYPE_CHECKING else object


class Steps(_Mixed):
    """The steps of a `LikelihoodTrainer`, as graph code (a mixin of it)."""

    def _single_replica_step(self):
        def step(x):
            gradients, scales, finite, values = self._gradient_step(x)
            self._apply_if(
                finite,
                gradients,
                lambda: self._assign(values),
                lambda: self._apply(gradients, scales),
            )

        step = self._compiled(step)
        return lambda x: self.distribute_strategy.run(step, args=(x,))

    def _replicated_step(self):
        strategy = self.distribute_strategy
        gradient_step = self._compiled(self._gradient_step)

        def run_step(x):
            # The update stands outside `run`: a merge call inside a conditional inside
            # a replica is not possible, a `run` inside a conditional is.
            gradients, scales, *others = strategy.run(gradient_step, args=(x,))
            finite, values = tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], others
            )
            self._apply_if(
                finite,
                gradients,
                lambda: self._assign(values),
                lambda: strategy.run(self._apply, args=(gradients, scales)),
            )

        return run_step

    def _apply_if(self, finite, gradients, assign, apply):
        """Updates the model if a step was finite."""
        variables = self.trainable_variables
        if self._scales_loss_by_itself:
            # It skips the step by itself, and then lowers the scale.
            tf.cond(finite, assign, lambda: None)
            apply()
            return

        def both():
            assign()
            with self._update.around(gradients, variables):
                apply()

        tf.cond(finite, both, lambda: None)

    @property
    def _scales_loss_by_itself(self) -> bool:
        return updating_optimizer(self.optimizer) is not self.optimizer

    def _assign(self, values):
        for variable, value in zip(self._traced.assigned, values, strict=True):
            variable.assign(value)

    def _gradient_step(self, x):
        """Returns the gradient, its scales, whether it is finite; what layers assign.

        The scales are its norm, and what the optimizer divides it by, or None. All of
        them are those of the whole batch: summed over, or agreed on by, the replicas.
        """
        first, batch_size = place_in_batch(x)
        seed = self._step_seed(TRAIN, num_steps(self.optimizer), first)
        factor = loss_scale(self.optimizer)
        with tf.GradientTape() as tape, rematerializing(self._rematerialize):
            layers = self._run(x, seed, training=True, tape=tape)
            objective = layers.result
            # A replica may have fewer examples than another, even none.
            share = tf.cast(tf.shape(x)[0] / batch_size, objective.dtype)
            loss = -tf.reduce_sum(objective) / tf.cast(batch_size, objective.dtype)
            loss += layers.regularization(share, 1.0 / num_replicas())
            scaled = loss if factor is None else loss * factor
        gradients = layers.again(lambda: tape.gradient(scaled, layers.sources))
        present = [tf.convert_to_tensor(g) for g in gradients if g is not None]
        *present, loss = summed([*present, loss])
        if factor is not None:
            present = _each(lambda g: g / tf.cast(factor, g.dtype), present)
        gradients = _in_place_of_present(gradients, present)
        # Weights may be of several dtypes.
        norm = tf.linalg.global_norm(_each(lambda g: tf.cast(g, loss.dtype), gradients))
        finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        if factor is not None:
            # The optimizer takes NaN for a scale that is too high.
            factor = tf.where(finite, factor, np.nan)
        self._update_train_metrics(layers, norm, finite)
        metrics = self._variables_of_metrics
        updates = [(v, value) for v, value in layers.updates if id(v) not in metrics]
        self._traced.assigned = [variable for variable, _ in updates]
        values = agreed([value for _, value in updates], share)
        return gradients, (norm, factor), finite, values

    @property
    def _repeated_layers(self) -> list[keras.layers.Layer]:
        """Layers that one evaluation may call several times; see `run_layers`."""
        return []

    def _run(self, x, seed, *, training: bool, tape: Any = None) -> Pass:
        """The objective of a batch and what the layers did beside it."""
        layer_seed = fold_seed(seed[:2], _LAYERS)
        if num_replicas() > 1:
            layer_seed = fold_seed(layer_seed, replica_id())
        layers = run_layers(
            lambda: self.objective(x, seed),
            self.trainable_variables,
            training=training,
            seed=layer_seed,
            tape=tape,
            repeated=[v for layer in self._repeated_layers for v in layer.variables],
        )
        self._is_regularized |= bool(layers.losses or layers.penalties)
        return layers

    def _update_objective_metrics(self, layers: Pass, finite: Any = True):
        # A skipped step has no say in the means, those of layers included.
        metrics = self._variables_of_metrics
        for variable, value in layers.updates:
            if id(variable) in metrics:
                variable.assign(tf.where(finite, value, variable.value))
        objective = layers.result
        counted = tf.cast(finite, objective.dtype)
        self._objective_metric.update_state(
            tf.where(finite, -objective, tf.zeros_like(objective)),
            sample_weight=tf.fill(tf.shape(objective), counted),
        )
        if not (layers.losses or layers.penalties):
            return
        # As in Keras: a mean over steps, each weighted by its examples.
        size = tf.cast(tf.shape(objective)[0], objective.dtype)
        value = layers.regularization(tf.minimum(size, 1.0), 1.0)
        self._regularization_metric.update_state(
            tf.where(finite, value, tf.zeros_like(value)), sample_weight=size * counted
        )

    @property
    def _variables_of_metrics(self) -> set[int]:
        return {id(variable) for variable in self.metrics_variables}

    def _update_train_metrics(self, layers, norm, finite):
        replicas = self.distribute_strategy.num_replicas_in_sync
        counted = tf.cast(finite, norm.dtype)
        self._update_objective_metrics(layers, finite)
        self._gradient_norm_metric.update_state(
            tf.where(finite, norm, tf.zeros_like(norm)),
            # A step counts once, so that an epoch may go on with more replicas.
            sample_weight=counted / replicas,
        )
        self._skipped_metric.update_state((1.0 - counted) / replicas)

    def _apply(self, gradients, scales):
        norm, factor = scales
        replicas = self.distribute_strategy.num_replicas_in_sync
        accumulates = updating_optimizer(self.optimizer).gradient_accumulation_steps

        clip = clipping(self.optimizer, norm)

        def finish(gradients):
            # Accumulated gradients are clipped by Keras, as their sum.
            if not accumulates:
                gradients = clip(gradients)
            if factor is not None:
                gradients = _each(lambda g: g * tf.cast(factor, g.dtype), gradients)
            if replicas > 1:
                # Keras sums over the replicas once more, over as many equal gradients.
                # Divided, they also pass below its clipping, which would come first.
                gradients = _each(lambda g: g / replicas, gradients)
            return gradients

        # Outputs of a compiled function are on no device, which strategies ask for.
        gradients = _each(tf.identity, gradients)
        # Keras would clip once more, and compute the norm once more for that.
        keeps = replicas > 1 or accumulates
        with _AS_IT_IS if keeps else without_clipping(self.optimizer):
            self._update.apply(gradients, self.trainable_variables, finish)

    def _test_step(self, x):
        steps_before = tf.cast(self._local_test_steps(), tf.int64)
        first, _ = place_in_batch(x)
        seed = self._step_seed(TEST, steps_before, first)
        self._update_objective_metrics(self._run(x, seed, training=False))
        self._test_step_metric.update_state(1.0)

    def _local_test_steps(self):
        # Read inside a replica, a metric's variable is that replica's own count.
        return tf.convert_to_tensor(self._test_step_metric.variables[0])

    def _step_seed(self, phase, step, first):
        """The seed of a step's noise, from the first example of this replica on."""
        seed = stateless_seed(self.seed)
        # The last number was the replica's; one device has to go on as before.
        for number in (phase, step, 0):
            seed = fold_seed(seed, number)
        return seed if first is None else starting_at(seed, first)


def _each(function, gradients):
    return [None if g is None else function(g) for g in gradients]


def _in_place_of_present(gradients, reduced):
    remaining = iter(reduced)
    return [None if g is None else next(remaining) for g in gradients]
