"""What every model has: events, preprocessing, noise on them, and `fit`."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from aef_tfp import flows
from aef_tfp.engine.arguments import (
    check_fits_memory,
    checked_count,
    checked_event_shape,
)
from aef_tfp.engine.examples import (
    as_arrays,
    check_is_read_once,
    check_reading,
    first_examples,
    in_tuples,
    unpack_batch,
)
from aef_tfp.engine.noise import (
    fold_seed,
    normal_noise,
    starting_at,
    stateless_seed,
)
from aef_tfp.engine.trainer import LikelihoodTrainer
from aef_tfp.flows.base import build_for, keeping_adapted
from aef_tfp.models.events import EventSpec
from aef_tfp.models.frozen import freeze, frozen_layers
from aef_tfp.models.paths import name_weights
from aef_tfp.networks.advice import refuse_shared
from aef_tfp.networks.batching import (
    PASS_ENTRIES,
    events_per_pass,
    joined,
    passes,
)
from aef_tfp.networks.expansion import expanding

__all__ = ["DENOISING_TARGETS", "EventModel"]

DENOISING_TARGETS = ("noisy", "clean")

# Of what weights mean. Format 1 had no number: maps from many inputs had no gain, and
# files did not say which layers were frozen.
_FORMAT = 2
_SAVED_IN = "The model was saved in format"

# Enough for means and standard deviations of ActNorm, one forward pass even on a CPU.
_ADAPT_EXAMPLES = 512

# Stream of the corruption's noise under a step's seed; the models count from 0.
_CORRUPTION = 2**31


class EventModel(LikelihoodTrainer):
    """A model of images or vectors that trains through `fit` (abstract).

    An event is `[H, W, C]` or a vector `[n]`. Integer data of `num_levels` values are
    dequantized by the model: x -> (x + U[0, 1)) / num_levels; float data are taken as
    they are, in [0, 1] where a pixel logit precedes the model. Then

        y = preprocessing.inverse(x)                  (eq. 19, and ActNorm)

    For denoising (appendix B), training events get Gaussian noise of standard deviation
    `noise_std` after dequantization, and stay in [0, 1]; see `EventSpec.within_range`.
    The objective is that of the noisy event, as in the paper, or that of the clean
    event with an encoder that sees the noisy one.

    Args:
        event_shape: Shape of one event.
        num_levels: Number of values of integer data; `"auto"` means 256 for images.
            None: the data are continuous.
        logit_lambda: Lambda of the pixel logit (eq. 19); `"auto"` means 1e-6 for images
            of one channel, 0.05 for more, None for vectors. None: the data are any real
            numbers, and noisy ones leave [0, 1].
        noise_std: Standard deviation of the noise on training events, at least 0.
        denoising_target: `"noisy"` or `"clean"`; without noise they are the same.
        seed: Seed of the noise of `fit` and `evaluate`.
        **kwargs: As in `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    _has_density: ClassVar[bool] = False

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        num_levels: Any = "auto",
        logit_lambda: Any = "auto",
        noise_std: float = 0.0,
        denoising_target: str = "noisy",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        # Half precision has too few digits for events; networks cast for themselves.
        self.autocast = False
        policy = self.dtype_policy
        if "float16" in (policy.compute_dtype, policy.variable_dtype.removeprefix("b")):
            raise ValueError(
                f"dtype {policy.name!r} is not supported, since logits of pixels and "
                "their gradients overflow float16, and densities need more digits than "
                "bfloat16 has; use 'mixed_bfloat16' or 'float32'."
            )
        self.event_shape = checked_event_shape(event_shape)
        density = self.dtype_policy.variable_dtype
        self.events = EventSpec.of(self.event_shape, num_levels, logit_lambda, density)
        if not 0.0 <= noise_std < np.inf:
            raise ValueError(
                f"noise_std must be a finite number of at least 0, got {noise_std!r}."
            )
        if denoising_target not in DENOISING_TARGETS:
            raise ValueError(
                "denoising_target must be 'noisy' or 'clean', got "
                f"{denoising_target!r}."
            )
        self.noise_std = float(noise_std)
        self.denoising_target = denoising_target
        act_norm = flows.ActNorm(self.event_shape[-1], name="act_norm", dtype=density)
        self.preprocessing = flows.Stack(
            [*self._squash(density), act_norm], name="preprocessing", dtype=density
        )
        self._are_units_known = False
        # Whether `fit` validates, for callbacks that need it.
        self.is_validated = False
        self._is_adapted = self.add_weight(
            name="is_adapted",
            shape=(),
            dtype="bool",
            initializer="zeros",
            trainable=False,
        )

    def _squash(self, dtype: Any) -> list[flows.Flow]:
        logit_lambda = self.events.logit_lambda
        if logit_lambda is None:
            return []
        return [flows.PixelSquash(logit_lambda, name="pixel_squash", dtype=dtype)]

    # What it is made of.

    def _parts(self) -> dict[str, tuple[keras.layers.Layer, tuple[int, ...]]]:
        """Its layers by the first name of their weights' paths; shapes of inputs."""
        return {"preprocessing": (self.preprocessing, self.event_shape)}

    def _complete(self) -> None:
        """Ends the construction, when all parts are there."""
        parts = self._parts()
        refuse_shared({name: layer for name, (layer, _) in parts.items()})
        for layer, shape in parts.values():
            build_for(layer, (None, *shape))
        name_weights({name: layer for name, (layer, _) in parts.items()})
        self.built = True

    def summary(self, *args, expand_nested: bool = False, **kwargs):
        """Prints what the model is made of; arguments as in `keras.Model.summary`.

        Args:
            *args: As in `keras.Model.summary`.
            expand_nested: Whether to show the layers of networks and flows, too.
            **kwargs: As in `keras.Model.summary`.
        """
        with expanding(expand_nested):
            super().summary(*args, expand_nested=expand_nested, **kwargs)

    # What a kind of model defines.

    @abstractmethod
    def _objective_of(
        self, inputs: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """What training maximizes, one value per event, `[batch]`.

        Args:
            inputs: Dequantized events as the encoder sees them.
            targets: Dequantized events whose density it is; the same without noise.
            seed: Stateless seed of the model's own noise.
        """

    @abstractmethod
    def _adapt_flows(self, y: tf.Tensor) -> None:
        """Initializes the kind's own flows from preprocessed events."""

    # Data.

    @property
    def event_size(self) -> int:
        """Number of entries of one event, N."""
        return self.events.size

    def dequantize(self, x: tf.Tensor, seed: Any) -> tf.Tensor:
        """Makes integer events continuous; see `EventSpec.dequantize`."""
        return self.events.dequantize(x, seed)

    def corrupt(self, x: Any, *, seed: int | None = None) -> tf.Tensor:
        """Returns noisy events as the model is trained on.

        Args:
            x: `[batch, *event_shape]`; integers are taken at the middle of their level.
            seed: Seed of the noise; None draws a new one.

        Returns:
            Floats of the same shape, in [0, 1] where a pixel logit precedes the model.

        Raises:
            ValueError: If `x` does not fit the model.
        """
        x = self.dequantize(self.events.checked(x), seed=None)
        return self._corrupt(x, stateless_seed(seed))

    def _corrupt(self, x, seed):
        x += self.noise_std * normal_noise(tf.shape(x), seed, x.dtype)
        return self.events.within_range(x, fold_seed(seed, _CORRUPTION))

    def objective(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """What training maximizes, noise on the events included, `[batch]`."""
        targets = inputs = self.dequantize(x, seed)
        if self.noise_std:
            inputs = self._corrupt(targets, fold_seed(seed, _CORRUPTION))
            if self.denoising_target == "noisy":
                targets = inputs
        return self._objective_of(inputs, targets, seed)

    def _objective_without_noise(self, x, seed):
        x = self.dequantize(x, seed)
        return self._objective_of(x, x, seed)

    @property
    def _events_per_pass(self) -> int:
        """How many events go through the model at once in bounded memory."""
        return events_per_pass(None, self.event_size)

    def _of_events(self, function: Any, x: Any, seed: int | None) -> Any:
        """Values of events, e.g. densities, in passes of bounded memory.

        Args:
            function: Graph code from events `[n, *event_shape]` and a stateless seed to
                `[n]`, or a structure of such.
            x: Events as users give them.
            seed: Of all noise, which is a function of it and an event's place in `x`.
        """
        x, seed = self.events.checked(x, density=True), stateless_seed(seed)
        parts = list(passes(x, self._events_per_pass))
        if len(parts) == 1:
            return function(x, seed)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return joined(
            [
                function(part, starting_at(seed, start))
                for part, start in zip(parts, starts, strict=False)
            ]
        )

    def _preprocess(self, x):
        """Preprocessed events and the log-determinant of getting there, `[batch]`."""
        # A copy, since TFP's cache would answer with values of older weights.
        x = tf.identity(x)
        bijector = self.preprocessing.bijector
        log_det = bijector.inverse_log_det_jacobian(x, len(self.event_shape))
        # Constant log-determinants come without a batch axis.
        return bijector.inverse(x), tf.broadcast_to(log_det, [tf.shape(x)[0]])

    def _flat(self, y):
        return tf.reshape(y, [-1, self.event_size])

    # Training.

    def adapt(self, data: Any) -> None:
        """Initializes every ActNorm from data, layer by layer from data to base.

        `fit` does this when nobody did, neither here nor by loading weights, and says
        so; an ActNorm whose weights were set by hand it leaves as it is. Called by
        hand, this initializes all of them anew, also those of a trained model. Runs
        eagerly, outside of any replica, so that all replicas get the same values.

        Args:
            data: Array `[n, *event_shape]` or data set of batches, as for `fit`; the
                first 512 examples are used.

        Raises:
            ValueError: If the data do not fit the model, or a network of the user's
                gives a scale that is not positive.

        Example:
            >>> model.adapt(images)
            >>> model.log_prob(images[:4])  # with normalized latents, untrained
        """
        data = self._admitted("adapt", data)
        self._adapt_to(first_examples(data, _ADAPT_EXAMPLES)[0])

    def _adapt_to(self, examples) -> int:
        """Does what `adapt` says; returns of how many examples."""
        x = self.events.checked(examples, density=self._has_density)
        if not len(x):
            raise ValueError("adapt needs at least one example, got none.")
        seed = stateless_seed(self.seed)
        x = self.dequantize(x, seed)
        if self.noise_std:
            x = self._corrupt(x, fold_seed(seed, _CORRUPTION))
        self._adapt_flows(self.preprocessing.adapt_inverse(x))
        self._is_adapted.assign(True)
        return len(x)

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
        if not 0.0 <= validation_split < 1.0:
            raise ValueError(
                f"validation_split must lie in [0, 1), got {validation_split!r}."
            )
        steps = kwargs.get("steps_per_epoch"), kwargs.get("validation_steps")
        first = checked_count("initial_epoch", kwargs.get("initial_epoch", 0), least=0)
        readings = range(first, checked_count("epochs", epochs, least=0))
        check_is_read_once("fit", x, len(readings), steps[0])
        if validation_data is not None:
            held_out = self._admitted("validation_data", validation_data)
            frequency = kwargs.get("validation_freq", 1)
            count = sum(self._should_eval(epoch, frequency) for epoch in readings)
            check_is_read_once("validation_data", held_out, count, steps[1])
            validation_data = (held_out,)
        x = self._begin_training("fit", x, verbose)
        if not isinstance(x, (np.ndarray, tf.Tensor, keras.utils.PyDataset)):
            # A data set shuffles itself; Keras warns about its own default.
            shuffle = False
        self._skips_in_a_row = 0
        self.is_validated = validation_data is not None or bool(validation_split)
        return super().fit(
            x,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            **kwargs,
        )

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
        if not kwargs.get("_use_cached_eval_dataset"):
            self._refusals.forget()
            x = self._admitted("evaluate", x, y, sample_weight)
            check_reading(x, batch_size=batch_size, **kwargs)
        return super().evaluate(x, None, batch_size, verbose, **kwargs)

    def predict(self, x, batch_size=None, *args, **kwargs):
        """Reconstructs events; arguments as in `keras.Model.predict`.

        Raises:
            ValueError: If the data do not fit the model.
        """
        self._refusals.forget()
        x = self._admitted("predict", x, density=False)
        check_reading(x, batch_size=batch_size, **kwargs)
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

    def _begin_training(self, name: str, x: Any, verbose: Any) -> Any:
        """Initializes ActNorm if nobody did, and warns; returns the data."""
        examples = x if isinstance(x, (np.ndarray, tf.Tensor)) else None
        if not bool(self._is_adapted.numpy()):
            examples, x = first_examples(x, _ADAPT_EXAMPLES)
            kept = [norm.shift.path for norm in self._act_norms() if norm.is_set]
            with keeping_adapted():
                count = self._adapt_to(examples)
            if verbose != 0:
                print(_adapt_note(count, kept), flush=True)
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
            int(4 * PASS_ENTRIES * len(x) / self._events_per_pass),
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

    def save(self, filepath, *args, **kwargs):
        """Writes the model; arguments as in `keras.Model.save`.

        Raises:
            ValueError: If it is a file of HDF5, which would leave parts out.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"A model is not saved as HDF5, got {str(filepath)!r}; name the file "
                "*.keras, or call save_weights with a file *.weights.h5."
            )
        super().save(filepath, *args, **kwargs)

    def export(self, filepath: Any, format: str = "tf_saved_model", **kwargs):
        """Writes the model for serving, in files that need no aef_tfp.

        Args:
            filepath: Directory that does not exist yet.
            format: `"tf_saved_model"`: a SavedModel with an endpoint for each method,
                see `export.endpoints_of`. `"litert"`: `encode.tflite` and
                `decode.tflite`, see `export.export_litert`.
            **kwargs: `verbose` is taken for Keras's sake; nothing is printed.

        Returns:
            For each endpoint the largest difference between the file and the model,
            relative to the largest value (at least 1); they were compared.

        Raises:
            FileExistsError: If `filepath` exists.
            ValueError: If the model is untrained or the format unknown.
            RuntimeError: If the file differs from the model.

        Example:
            >>> differences = model.export("exported/1")
            >>> tf.saved_model.load("exported/1").encode(images)["latents"].shape
            TensorShape([64, 8])
        """
        # Keras has this method on the model, while the room lies below this one.
        from aef_tfp import export

        formats = {
            "tf_saved_model": export.export_saved_model,
            "litert": export.export_litert,
        }
        if format not in formats:
            raise ValueError(
                f"format must be 'tf_saved_model' or 'litert', got {format!r}."
            )
        unknown = sorted(set(kwargs) - {"verbose"})
        if unknown:
            raise ValueError(
                f"export takes no {unknown[0]!r}: a model's endpoints have their "
                "own inputs."
            )
        return formats[format](self, filepath)

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        return {
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "event_shape": list(self.event_shape),
            "num_levels": self.events.num_levels,
            "logit_lambda": self.events.logit_lambda,
            "noise_std": self.noise_std,
            "denoising_target": self.denoising_target,
            "seed": self.seed,
            "frozen": frozen_layers(self),
            "format": _FORMAT,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model; weights come from the file.

        Raises:
            ValueError: If an older version wrote the configuration.
        """
        if config.get("format") != _FORMAT:
            raise ValueError(_other_format(config.get("format")))
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
            if key != "format"
        }
        frozen = config.pop("frozen", ())
        model = cls(**config)
        freeze(model, frozen)
        return model

    def load_weights(self, filepath, *args, **kwargs):
        """Reads weights; arguments as in `keras.Model.load_weights`.

        Raises:
            ValueError: If they do not fit, or an older version wrote them.
        """
        try:
            super().load_weights(filepath, *args, **kwargs)
        except ValueError as error:
            # Keras lists all objects that it could not load, and why one of them.
            for line in str(error).splitlines():
                if line.startswith(_SAVED_IN):
                    raise ValueError(line) from None
            raise

    def save_own_variables(self, store):
        """Writes the model's own weights, and what format they are of."""
        super().save_own_variables(store)
        store["format"] = np.array(_FORMAT)

    def load_own_variables(self, store):
        """Reads what `save_own_variables` wrote.

        Raises:
            ValueError: If an older version wrote the weights.
        """
        found = int(np.array(store["format"])) if "format" in store.keys() else None  # noqa: SIM118
        if found != _FORMAT:
            raise ValueError(_other_format(found))
        own = {key: store[key] for key in store.keys() if key != "format"}  # noqa: SIM118
        super().load_own_variables(own)


def _other_format(found: Any) -> str:
    return (
        f"{_SAVED_IN} {found or 1} of aef_tfp, whose weights mean "
        f"something else than those of format {_FORMAT}, which this version reads: "
        "train it anew, or load it with the version that wrote it."
    )


def _adapt_note(count: int, kept: Sequence[str]) -> str:
    note = f"ActNorm initialized from {count} examples, as model.adapt(data) does"
    if kept:
        note += f"; set before, and kept: {', '.join(kept)}"
    return note
