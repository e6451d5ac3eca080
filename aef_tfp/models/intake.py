"""How events come in: `fit` and its like, and the checks that all of them share."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp import flows
from aef_tfp.engine.arguments import check_fits_memory, checked_count, is_number
from aef_tfp.engine.examples import (
    as_arrays,
    check_ends,
    check_is_read_once,
    check_reading,
    first_examples,
    in_batches,
    in_tuples,
    num_trained,
    unpack_batch,
)
from aef_tfp.engine.progress import with_bar
from aef_tfp.engine.tracing import AnySize
from aef_tfp.flows.base import keeping_adapted
from aef_tfp.models.mixin import Mixin
from aef_tfp.networks.batching import PASS_ENTRIES

__all__ = ["ADAPT_EXAMPLES", "Intake"]

# Enough for means and standard deviations of ActNorm, one forward pass even on a CPU.
ADAPT_EXAMPLES = 512


class Intake(Mixin):
    """Keras's ways in, for a model of events (a mixin of `EventModel`).

    All kinds of data, arrays, data sets and generators, meet the same checks here, and
    batch by batch in `check_batch`.
    """

    _are_units_known: bool

    def __call__(self, x, *args, **kwargs):
        """Calls the model as in Keras; events out of range are refused in one line."""
        if isinstance(x, (np.ndarray, tf.__internal__.EagerTensor)):
            self.events.check(x)
        return super().__call__(x, *args, **kwargs)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        **kwargs,
    ):
        """Trains on events; result, and arguments not named here, as in `keras.Model`.

        Args:
            x: Events alone: array `[n, *event_shape]` (uint8 as it is, or float), or
                batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator.
            y: Must be None: the model takes no labels.
            batch_size: As in `keras.Model.fit`, like all others.
            epochs: Passes through the data.
            verbose: `"auto"`, 0, 1 or 2.
            callbacks: Keras callbacks.
            validation_split: Share of an array's end that is held out.
            validation_data: Like `x`.
            shuffle: Whether arrays and PyDatasets are shuffled; other data are not.
            class_weight: Must be None.
            sample_weight: Must be None.
            **kwargs: `initial_epoch`, `steps_per_epoch`, `validation_steps`,
                `validation_batch_size`, `validation_freq`.

        Returns:
            Keras's `History`; `loss` is in nats per event where it is a density.

        Raises:
            ValueError: If the data do not fit the model.
            FloatingPointError: If too many updates in a row are not finite.
        """
        self._assert_compile_called("fit")
        self._refusals.forget()
        x = self._admitted("fit", x, y, sample_weight, class_weight)
        check_reading(x, batch_size=batch_size, **kwargs)
        if not (is_number(validation_split) and 0.0 <= validation_split < 1.0):
            raise ValueError(
                f"validation_split must lie in [0, 1), got {validation_split!r}."
            )
        if isinstance(kwargs.get("validation_freq"), np.integer):
            # Keras takes no other integers than Python's.
            kwargs["validation_freq"] = int(kwargs["validation_freq"])
        steps = kwargs.get("steps_per_epoch"), kwargs.get("validation_steps")
        first = checked_count("initial_epoch", kwargs.get("initial_epoch", 0), least=0)
        readings = range(first, checked_count("epochs", epochs, least=0))
        check_is_read_once("fit", x, len(readings), steps[0])
        if len(readings) > 1 or (validation_data is not None and not callbacks):
            # A single endless epoch is for a callback to end, before a validation.
            check_ends("fit", x, steps[0])
        if validation_data is not None:
            held_out = self._admitted("validation_data", validation_data)
            frequency = kwargs.get("validation_freq", 1)
            count = sum(self._should_eval(epoch, frequency) for epoch in readings)
            check_is_read_once("validation_data", held_out, count, steps[1])
            check_ends("validation_data", held_out, steps[1])
            validation_data = (held_out,)
        if validation_data is not None:
            # As in Keras, which does not hold out a part then.
            validation_split = 0.0
        trained = None
        if validation_split:
            if not isinstance(x, (np.ndarray, tf.Tensor)):
                raise ValueError(
                    "validation_split holds out a part of an array, got "
                    f"{type(x).__name__}; pass validation_data."
                )
            trained = num_trained(len(x), validation_split)
        x = self._begin_training("fit", x, verbose, trained)
        if self._loses_digits(x):
            if trained is not None:
                validation_data, validation_split = (x[trained:],), 0.0
                x = x[:trained]
            # Of the validation, too, if it has none of its own.
            kwargs.setdefault("validation_batch_size", batch_size)
            x, batch_size = in_batches(x, batch_size, bool(shuffle)), None
        if validation_data is not None and self._loses_digits(validation_data[0]):
            size = kwargs.pop("validation_batch_size", None) or batch_size
            validation_data = (in_batches(validation_data[0], size),)
        if not isinstance(x, (np.ndarray, tf.Tensor, keras.utils.PyDataset)):
            # A data set shuffles itself; Keras warns about its own default.
            shuffle = False
        self._skips_in_a_row = 0
        self.is_validated = validation_data is not None or bool(validation_split)
        self.averages.watch(callbacks)
        try:
            return super().fit(
                x,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=with_bar(callbacks, verbose, self._in_order),
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle,
                **kwargs,
            )
        finally:
            self.averages.watch(None)

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        **kwargs,
    ):
        """Evaluates the objective; arguments and result as in `keras.Model.evaluate`.

        The dequantization noise is a function of the model's seed and the position of
        the batch: equal calls give equal values.
        """
        self._assert_compile_called("evaluate")
        if not kwargs.get("_use_cached_eval_dataset"):
            self._refusals.forget()
            x = self._admitted("evaluate", x, y, sample_weight)
            check_reading(x, batch_size=batch_size, **kwargs)
            check_ends("evaluate", x, kwargs.get("steps"))
            if self._loses_digits(x):
                x, batch_size = in_batches(x, batch_size), None
        bar = with_bar(kwargs.pop("callbacks", None), verbose, self._in_order)
        had_averages = self.averages.are_in_model
        was_validating = self.averages.is_validating
        self.averages.is_validating = bool(kwargs.get("_use_cached_eval_dataset"))
        try:
            return super().evaluate(
                x, None, batch_size, verbose, callbacks=bar, **kwargs
            )
        finally:
            self.averages.is_validating = was_validating
            # Where it was interrupted, nobody else does.
            if not had_averages:
                self.averages.put_back()

    def predict(self, x, batch_size=None, *args, **kwargs):
        """Reconstructs events; arguments as in `keras.Model.predict`.

        Raises:
            ValueError: If the data do not fit the model.
        """
        self._refusals.forget()
        x = self._admitted("predict", x, density=False)
        check_reading(x, batch_size=batch_size, **kwargs)
        # As in Keras, the verbosity and the steps may come without their names.
        check_ends("predict", x, kwargs.get("steps", *args[1:2]))
        if self._loses_digits(x):
            x, batch_size = in_batches(x, batch_size), None
        with self._refusals.telling():
            try:
                return super().predict(x, batch_size, *args, **kwargs)
            except UnboundLocalError as error:
                # Keras's own, where no batch came.
                if "batch_outputs" not in str(error):
                    raise
                raise ValueError("predict: the data gave no batch.") from None

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight=None, return_dict=False
    ):
        """Makes one step on a batch; arguments and result as in `keras.Model`.

        Values are those of the batch, not means since `reset_metrics`.

        Raises:
            ValueError: If the batch does not fit the model.
        """
        self._assert_compile_called("train_on_batch")
        x = self._admitted("train_on_batch", x, y, sample_weight, class_weight)
        self._begin_training("train_on_batch", x, verbose=1)
        self.make_train_function()
        return self._on_batch(self.train_function, x, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Evaluates one batch; arguments and result as in `keras.Model`.

        Values are those of the batch, with the noise of a first one.

        Raises:
            ValueError: If the batch does not fit the model.
        """
        self._assert_compile_called("test_on_batch")
        x = self._admitted("test_on_batch", x, y, sample_weight)
        self.make_test_function()
        return self._on_batch(self.test_function, x, return_dict)

    def _on_batch(self, function, x, return_dict):
        if not isinstance(x, (np.ndarray, tf.Tensor)):
            raise ValueError(
                "train_on_batch and test_on_batch take one array of images, got "
                f"{type(x).__name__}; use fit and evaluate."
            )
        self.reset_metrics()
        data = tf.data.Dataset.from_tensors(x)
        distributed = self.distribute_strategy.experimental_distribute_dataset(data)
        logs = function(iter(distributed))
        logs = {name: float(value) for name, value in logs.items()}
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def make_predict_function(self, force: bool = False):
        """Builds the function that `predict` calls with batches."""
        if self.predict_function is not None and not force:
            return
        super().make_predict_function(force=True)
        predict = self.predict_function
        if not self.run_eagerly and self.distribute_strategy.num_replicas_in_sync == 1:
            predict = AnySize(predict)

        def checked(data):
            for batch in data:
                x = unpack_batch(batch)
                for part in self.distribute_strategy.experimental_local_results(x):
                    self.events.check(part)
            return predict(data)

        self.predict_function = checked

    # How data come in.

    def _admitted(self, name: str, x: Any, *others: Any, density: bool = True) -> Any:
        """What Keras is given for data, after a check of what is known beforehand.

        Args:
            name: What messages call the data.
            x: Events, in any form.
            *others: Labels and weights, which there must not be.
            density: Whether densities are asked for.
        """
        if isinstance(x, tuple) and x:
            # As Keras takes validation data: (x,) or (x, None).
            x, *rest = x
            others = (*others, *rest)
        if any(other is not None for other in others):
            raise ValueError(
                f"{name}: the model takes images alone, with equal weights, got "
                "labels, targets or weights beside them; pass the images only, and "
                "repeat those that shall count more."
            )
        if x is None:
            raise ValueError(f"{name}: there are no data; pass the images.")
        x = as_arrays(x)
        self.events.check_data(name, x)
        if isinstance(x, (np.ndarray, tf.Tensor)):
            if density and self._has_density:
                self.events.check_density(name, x)
        elif isinstance(x, Iterator):
            return in_tuples(x, self._refusals)
        return x

    def _loses_digits(self, x: Any) -> bool:
        """Whether Keras would make shorter floats of an array than the model takes."""
        return (
            isinstance(x, (np.ndarray, tf.Tensor))
            and x.dtype == "float64"
            and self.events.dtype == "float64"
            and keras.config.floatx() != "float64"
        )

    def _begin_training(
        self, name: str, x: Any, verbose: Any, count: int | None = None
    ) -> Any:
        """Readies ActNorm and the optimizer, and warns; returns the data.

        Args:
            name: What messages call the data.
            x: The data.
            verbose: Keras's verbosity.
            count: How many of an array's examples are trained on; None for all.
        """
        examples = x[:count] if isinstance(x, (np.ndarray, tf.Tensor)) else None
        if not bool(self._is_adapted.numpy()):
            if examples is None:
                examples, x = first_examples(x, ADAPT_EXAMPLES)
            else:
                examples = examples[:ADAPT_EXAMPLES]
            kept = [norm.shift.path for norm in self._act_norms() if norm.is_set]
            with keeping_adapted():
                seen = self._adapt_to(examples)
            if verbose != 0:
                print(_adapt_note(seen, kept), flush=True)
        with self.distribute_strategy.scope():
            self._update.begin()
        if examples is not None and self._has_density:
            self.events.warn_of_unbounded(name, examples)
        return x

    def check_batch(self, x: np.ndarray, *, training: bool) -> None:
        """Refuses a batch that is not of the model's units.

        NaN in a training batch is left to the guard against updates that are not
        finite, which counts them.
        """
        check_fits_memory(
            f"A batch of {len(x):,}",
            int(4 * PASS_ENTRIES * len(x) / self._densities_per_pass),
            "lower the batch size",
        )
        self.events.check(x, finite=not training)
        if not self._are_units_known and self._has_density:
            self.events.check_density("data", x)
            # A batch of blank images tells nothing.
            self._are_units_known = x.size > 0 and np.ptp(x) != 0

    def reset_metrics(self):
        """Resets all trackers, as Keras does when an epoch or an evaluation begins."""
        super().reset_metrics()
        self._are_units_known = False

    def _act_norms(self) -> list[flows.ActNorm]:
        layers = self._flatten_layers()
        return [layer for layer in layers if isinstance(layer, flows.ActNorm)]


def _adapt_note(count: int, kept: Sequence[str]) -> str:
    note = f"ActNorm initialized from {count} examples, as model.adapt(data) does"
    if kept:
        note += f"; set before, and kept: {', '.join(kept)}"
    return note
