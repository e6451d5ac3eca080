"""The training engine: one `tf.function` step under any strategy, through `fit`.

Keras's own step is replaced for what it does wrong or not at all here: it clips each
replica's gradient before the sum, cannot loop several steps or compile with XLA under a
strategy, and applies a non-finite update. Everything around the step (progress bar,
callbacks, history) remains Keras's.
"""

import contextlib
import types
import weakref
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.arguments import checked_seed
from aef_tfp.engine.averages import Averages
from aef_tfp.engine.clipping import num_steps
from aef_tfp.engine.compilation import Compilation
from aef_tfp.engine.diagnosis import describe_non_finite
from aef_tfp.engine.examples import unpack_batch
from aef_tfp.engine.gate import Gate
from aef_tfp.engine.layer_metrics import metrics_of_layers, with_results
from aef_tfp.engine.refusals import Refusals
from aef_tfp.engine.steps import TRAIN, Steps
from aef_tfp.engine.tracing import as_traced, forget_graphs, traced, tracing
from aef_tfp.engine.update import Update
from aef_tfp.memory import keep_freed_memory
from aef_tfp.networks.convolutions import arranging_for_xla

__all__ = ["IN_STEPS", "LikelihoodTrainer"]

IN_STEPS = ("seed", "noise_std", "denoising_target", "num_importance_samples")
"""Attributes that steps read as constants when they are traced."""


class LikelihoodTrainer(Compilation, Steps, keras.Model):
    """A model that is its own loss: the mean negative `objective` (abstract).

    Layers are in training within the step, and only there. What they add by
    regularizers and `add_loss` is part of the loss, and logged as
    `regularization_loss`; the density keeps its own name and value. What they assign,
    like the statistics of BatchNormalization, holds if the step does, and is averaged
    over replicas. Their noise is a function of (`seed`, step, replica, layer).

    Noise is stateless: every random number of a step is a function of (`seed`, step,
    place of the example in the batch). So a resumed run needs no generator state, and
    the update does not depend on how many replicas share the batch.

    A step whose loss or gradient is not finite leaves the weights and the optimizer as
    they are. `skipped_updates` counts those steps since the epoch began, and `fit`
    stops with an error after `max_skipped_updates` of them in a row (see `compile`).

    Args:
        seed: Seed of all noise of `fit` and `evaluate`.
        **kwargs: As in `keras.Model`.
    """

    def __init__(self, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self._objective_metric = keras.metrics.Mean(name="negative_objective")
        self._regularization_metric = keras.metrics.Mean(name="regularization_loss")
        self._gradient_norm_metric = keras.metrics.Mean(name="gradient_norm")
        self._skipped_metric = keras.metrics.Sum(name="skipped_updates")
        self._test_step_metric = keras.metrics.Sum(name="test_steps")
        self._max_skipped_updates = 20
        self._rematerialize = False
        # Known once a step is traced: whether layers add losses, what they assign. In
        # an object of its own, since Keras takes lists of variables for weights.
        self._is_regularized = False
        self._traced = types.SimpleNamespace(assigned=[])
        self._skips_seen = 0
        self._skips_in_a_row = 0
        self._refusals = Refusals()
        self._update: Update
        self.averages: Averages
        self._constants_of_step: tuple[Any, ...] = ()
        self._names_beside: tuple[str, ...] = ()
        self._have_data_come = False
        self.train_function: Any = None
        self.test_function: Any = None
        self.predict_function: Any = None

    event_shape: tuple[int, ...]

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; what reads it as a constant is traced anew."""
        if name not in IN_STEPS:
            super().__setattr__(name, value)
            return
        super().__setattr__(name, self._checked(name, value))
        self._trace_anew()

    def _trace_anew(self) -> None:
        """Lets go of all graphs, since something that they have as a constant changed.

        `fit` calls what was made before: a callback may be what changed it.
        """
        forget_graphs(self)
        if getattr(self, "train_function", None) is not None:
            self._new_train_function()
        if getattr(self, "test_function", None) is not None:
            self.make_test_function(force=True)
        if getattr(self, "predict_function", None) is not None:
            self.make_predict_function(force=True)

    def _checked(self, name: str, value: Any) -> Any:
        """A value for one of `IN_STEPS`, or a `ValueError`."""
        return checked_seed(value) if name == "seed" else value

    @abstractmethod
    def objective_logs(self, loss: Any) -> dict[str, Any]:
        """Logs beside the mean loss, by their true names, e.g. bits per dimension."""

    @abstractmethod
    def objective(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Log-density, or its surrogate, to be maximized.

        Args:
            x: Batch as the data set gives it, `[batch, *event_shape]`.
            seed: Stateless seed, `[2]`, or `[3]` with the place of the first example.

        Returns:
            One value per example, `[batch]`: nats where it is a density.
        """

    @abstractmethod
    def check_batch(self, x: np.ndarray, *, training: bool) -> None:
        """Refuses a batch before any step sees it, by a `ValueError` for the user."""

    @property
    def trackers(self) -> list[keras.metrics.Metric]:
        """What the engine counts itself."""
        return [
            self._objective_metric,
            self._regularization_metric,
            self._gradient_norm_metric,
            self._skipped_metric,
            self._test_step_metric,
        ]

    @property
    def metrics_names(self) -> list[str]:
        """Names of what `evaluate` returns, in its order: the loss is the first.

        Those of penalties and of layers are known once they were evaluated.
        """
        # Keras asks for all attributes of what it saves, on the first worker alone. To
        # read metrics here, of all workers, is a step that the others do not make.
        return self._in_order(self._names_beside)

    def _in_order(self, names: Iterable[str]) -> list[str]:
        # A graph returns a dictionary in alphabetical order. What training has beside
        # an evaluation comes last.
        own = ["loss", *sorted(self.objective_logs(tf.constant(np.nan)))]
        last = ["gradient_norm", "skipped_updates"]
        beside = sorted({*names} - {*own, *last})
        return [*own, *beside, *(name for name in last if name in names)]

    def _flatten_metrics_in_order(self, logs):
        return [logs[name] for name in self._in_order(logs) if name in logs]

    @property
    def metrics(self):
        """All trackers, the user's last; `fit` resets them at each epoch."""
        return [*self.trackers, *metrics_of_layers(self)]

    def reset_metrics(self):
        """Resets all trackers, as Keras does when an epoch or an evaluation begins."""
        super().reset_metrics()
        self._skips_seen = 0
        self._have_data_come = False

    def get_metrics_result(self):
        """Returns the training metrics under the names that logs carry.

        The metrics of layers have their own names, with a number where one is taken.
        """
        return self._with_layers(
            {
                **self._objective_result(),
                "gradient_norm": self._gradient_norm_metric.result(),
                "skipped_updates": self._skipped_metric.result(),
            }
        )

    def _test_result(self):
        logs = self._with_layers(self._objective_result())
        self._names_beside = tuple(logs)
        return logs

    def _with_layers(self, logs):
        return with_results(logs, metrics_of_layers(self))

    def _objective_result(self):
        loss = self._objective_metric.result()
        # The mean over no example (all skipped) is not zero.
        seen = tf.convert_to_tensor(self._objective_metric.count) > 0
        loss = tf.where(seen, loss, np.nan)
        logs = self.objective_logs(loss)
        if self._is_regularized:
            regularization = self._regularization_metric.result()
            logs["regularization_loss"] = regularization
            loss += regularization
        return {"loss": loss, **logs}

    @property
    def is_skipping(self) -> bool:
        """Whether the last execution of training steps skipped every update."""
        return self._skips_in_a_row > 0

    def get_progress(self) -> list[Any]:
        """Returns the sums and counts of an epoch under way, as JSON takes them.

        Under a strategy of several workers all of them have to call it.
        """
        return [
            tf.convert_to_tensor(v).numpy().tolist() for v in self.metrics_variables
        ]

    def set_progress(self, progress: list[Any]) -> None:
        """Goes on with an epoch that `get_progress` was called in."""
        for variable, value in zip(self.metrics_variables, progress, strict=True):
            variable.assign(value)
        self._skips_seen = int(self._skipped_metric.result())

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras builds models and metrics here from the mean of the replicas' batches,
        # which fails if those differ in size. This model is built when constructed.
        pass

    def make_train_function(self, force: bool = False):
        """Builds the function that `fit` calls with an iterator.

        Raises:
            ValueError: If it was compiled for another optimizer, or for other weights.
        """
        self._check_optimizer()
        constants = self._constants()
        if self.train_function is None or force or constants != self._constants_of_step:
            self._constants_of_step = constants
            self._new_train_function()

    def _new_train_function(self) -> None:
        with self.distribute_strategy.scope():
            # Also true of a strategy of one replica, whose variables want merge calls.
            is_distributed = tf.distribute.has_strategy()
        run_step = (
            self._replicated_step() if is_distributed else self._single_replica_step()
        )
        self.train_function = self._looped(
            run_step, self.get_metrics_result, self._stop_if_stuck
        )

    def make_test_function(self, force: bool = False):
        """Builds the function that `evaluate` calls with an iterator."""
        if self.test_function is not None and not force:
            return
        step = self._compiled(self._test_step)

        def run_step(data):
            self.distribute_strategy.run(step, args=(data,))

        self.test_function = self._looped(run_step, self._test_result)

    def _looped(self, run_step, result, check=None):
        """Returns a function that runs the next `steps_per_execution` batches.

        It ends early, and without an error, where the data end: the steps done until
        then count, in the logs too.
        """
        training = check is not None
        # TensorFlow keeps what a graph calls back for as long as the process lasts.
        trainer = weakref.ref(self)

        def check_batch(x):
            if (model := trainer()) is not None:
                model.check_batch(x, training=training)

        gate = Gate(check_batch, self.event_shape, self._refusals)

        def admit(data):
            return self.distribute_strategy.run(gate.admitted, args=(data,))

        # AutoGraph is for the loop alone, not for what is in it.
        admit, run_step, result = (
            tf.autograph.experimental.do_not_convert(tracing()(function))
            for function in (admit, run_step, result)
        )

        def run(iterator, most):
            steps = 0
            for _ in tf.range(most):
                data = iterator.get_next_as_optional()
                if data.has_value():
                    run_step(admit(data.get_value()))
                    steps += 1
            return steps, result()

        compiled = run if self.run_eagerly else tf.function(run, reduce_retracing=True)
        # What TensorFlow's improvements are made for.
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        pays = has_gpu or self.distribute_strategy.num_replicas_in_sync > 1

        def run_or_stop(iterator):
            running = contextlib.nullcontext() if pays else as_traced()
            # Not a constant of the graph: it may be set between two trainings.
            most = tf.constant(self.steps_per_execution)
            with self._refusals.telling(), running:
                steps, logs = compiled(iterator, most)
            if int(steps) == 0:
                if not self._have_data_come:
                    raise ValueError(
                        "There are no images: the data gave no batch; if it is a "
                        "generator, it had ended in an epoch before."
                    )
                raise StopIteration
            self._have_data_come = True
            if check is None:
                self.averages.note_evaluation()
            else:
                check(int(steps), logs, iterator)
            return logs

        return run_or_stop

    def _compiled(self, step):
        # XLA and the variables of several replicas do not go together
        # ("resource located in device ...").
        single = self.distribute_strategy.num_replicas_in_sync == 1
        if self.run_eagerly or not self.jit_compile or not single:
            return step
        if not tf.config.list_physical_devices("GPU"):
            keep_freed_memory()

        def arranged(*args):
            with arranging_for_xla():
                return step(*args)

        return traced(arranged, jit_compile=True)

    def _stop_if_stuck(self, steps: int, logs: Any, iterator: Any) -> None:
        """Raises after too many skipped updates in a row.

        Within one execution of several steps, only a fully skipped one continues the
        row.
        """
        skipped = int(logs["skipped_updates"])  # since the epoch began
        new, self._skips_seen = skipped - self._skips_seen, skipped
        self._skips_in_a_row = self._skips_in_a_row + new if new == steps else 0
        if self._skips_in_a_row >= self._max_skipped_updates:
            raise FloatingPointError(
                f"{self._skips_in_a_row} updates in a row had a non-finite loss or "
                "gradient and were skipped, after "
                f"{int(self.optimizer.iterations.numpy())} good ones; the first value "
                f"that was not finite is {self._diagnosis(iterator)}. Check the data "
                "for NaN and values out of range, lower the learning rate, or set "
                "global_clipnorm in the optimizer."
            )

    def _diagnosis(self, iterator: Any) -> str:
        """Says what is not finite in the next batch, from which no step came yet."""
        data = iterator.get_next_as_optional()
        if not data.has_value():
            return "unknown, for the data end here"
        x = unpack_batch(data.get_value())
        parts = self.distribute_strategy.experimental_local_results(x)
        if any(part.dtype.is_floating and np.isnan(part).any() for part in parts):
            return "in the data"
        # As a skipped step does not count, the noise is that of the last one.
        seed = self._step_seed(TRAIN, num_steps(self.optimizer), None)
        x = tf.concat(parts, axis=0)

        def loss():
            layers = self._run(x, seed, training=True)
            return layers.regularization(1.0, 1.0) - tf.reduce_mean(layers.result)

        return describe_non_finite(loss, self.trainable_variables)
