"""What every model has: events, preprocessing, and noise on them."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.variables import AutocastScope

from aef_tfp import flows
from aef_tfp.engine.arguments import is_number
from aef_tfp.engine.examples import first_examples
from aef_tfp.engine.noise import (
    fold_seed,
    normal_noise,
    starting_at,
    stateless_seed,
)
from aef_tfp.engine.tracing import traced
from aef_tfp.engine.trainer import IN_STEPS, LikelihoodTrainer
from aef_tfp.flows.base import build_for
from aef_tfp.models.availability import available
from aef_tfp.models.events import EventSpec
from aef_tfp.models.files import Files, constructor_arguments
from aef_tfp.models.intake import ADAPT_EXAMPLES, Intake
from aef_tfp.models.likelihood import Likelihood
from aef_tfp.models.paths import name_weights
from aef_tfp.networks.advice import refuse_shared
from aef_tfp.networks.batching import events_per_pass, joined, passes
from aef_tfp.networks.expansion import expanding
from aef_tfp.networks.tracking import InCheckpoints

__all__ = ["DENOISING_TARGETS", "EventModel"]

DENOISING_TARGETS = ("noisy", "clean")

# Arguments of constructors that users set later, beside those that steps read.
_SETTABLE = ("name", "dtype", "proposal_scales")

# Stream of the corruption's noise under a step's seed; the models count from 0.
_CORRUPTION = 2**31


class EventModel(Intake, Files, InCheckpoints, LikelihoodTrainer):
    """A model of images or vectors that trains through `fit` (abstract).

    What a kind of model can do, it says by itself: `encodes`, `samples`, `estimates`
    and `has_terms` are true where it has the methods, and `likelihood` is what it
    trains on, where that is a density.

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
        name: Name of the model.
        dtype: Keras's policy: `"float32"`, `"float64"`, or `"mixed_bfloat16"` for the
            networks, with densities in float32. None: Keras's present one.

    Raises:
        ValueError: If an argument is out of its range.
    """

    # Has `encode`, `decode`, `reconstruct` and `interpolate`.
    encodes: ClassVar[bool] = False
    # Has `decode` in a form without loops, which LiteRT needs.
    decodes_in_parallel: ClassVar[bool] = True
    # Has `sample`.
    samples: ClassVar[bool] = False
    # Has `marginal_log_prob`, and proposals to tune.
    estimates: ClassVar[bool] = False
    # Has `objective_terms`, a prior and a chain of named parts.
    has_terms: ClassVar[bool] = False
    # Whether reconstructions are all that it is trained for.
    reconstructs_only: ClassVar[bool] = False

    # What to say of a method that other kinds of models have and this one has not.
    _instead: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        num_levels: Any = "auto",
        logit_lambda: Any = "auto",
        noise_std: float = 0.0,
        denoising_target: str = "noisy",
        seed: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__(seed=seed, name=name, dtype=dtype)
        # It may have been set since this package was imported.
        data_format = keras.config.image_data_format()
        if data_format != "channels_last":
            raise ValueError(
                "events have their channels last, got image_data_format "
                f"{data_format!r} of Keras; call "
                "keras.config.set_image_data_format('channels_last')."
            )
        # Half precision has too few digits for events; networks cast for themselves.
        # Of this Keras takes notice in a scope alone: see `__call__`.
        self.autocast = False
        policy = self.dtype_policy
        if "float16" in (policy.compute_dtype, policy.variable_dtype.removeprefix("b")):
            raise ValueError(
                f"dtype {policy.name!r} is not supported, since logits of pixels and "
                "their gradients overflow float16, and densities need more digits than "
                "bfloat16 has; use 'mixed_bfloat16' or 'float32'."
            )
        density = self.dtype_policy.variable_dtype
        self.events = EventSpec.of(event_shape, num_levels, logit_lambda, density)
        self.event_shape = self.events.shape
        self.noise_std = noise_std
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

    # Names that are set once, when the model is made.
    _fixed: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute, but none of what the model is made of.

        The chain would go on with what it has, and a file would hold the other. What it
        has already may be set, as constructors of classes that extend it do.
        """
        if name in self._fixed and not self._has(name, value):
            kind = type(self).__name__
            raise AttributeError(
                f"{kind}.{name} is fixed when the model is made, got a "
                f"{type(value).__name__}; make another model, "
                f"{kind}(..., {name}=...)."
                if name in constructor_arguments(type(self))
                else f"{kind}.{name} is fixed when the model is made; make another one."
            )
        super().__setattr__(name, value)

    def _has(self, name: str, value: Any) -> bool:
        if isinstance(value, (int, float, str, tuple, type(None))):
            return name in constructor_arguments(type(self)) and (
                value == self._argument(name)
            )
        return value is getattr(self, name, self)

    def __getattr__(self, name: str) -> Any:
        """Says what to use in place of what other kinds of models have."""
        static = inspect.getattr_static(type(self), name, None)
        if isinstance(static, property):
            # It is there, and failed: its own error says which attribute was missing.
            return static.__get__(self)
        instead = type(self)._instead.get(name)
        if instead is None:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        raise AttributeError(f"{type(self).__name__} has no {name}; {instead}")

    # Why a kind of model has no clean targets, and what to do.
    _why_only_noisy: ClassVar[str] = ""

    def _checked(self, name: str, value: Any) -> Any:
        if name == "noise_std":
            if not (is_number(value) and 0.0 <= value < np.inf):
                raise ValueError(
                    f"noise_std must be a finite number of at least 0, got {value!r}."
                )
            return float(value)
        if name == "denoising_target":
            if value not in DENOISING_TARGETS:
                raise ValueError(
                    f"denoising_target must be 'noisy' or 'clean', got {value!r}."
                )
            if value == "clean" and self._why_only_noisy:
                raise ValueError(
                    f"{type(self).__name__} has no denoising_target 'clean', since "
                    f"{self._why_only_noisy}."
                )
        return super()._checked(name, value)

    def __dir__(self) -> list[str]:
        """Names of what works."""
        return available(self, super().__dir__())

    @property
    def likelihood(self) -> Likelihood | None:
        """What training maximizes, where that is a density; None otherwise."""
        return None

    @property
    def _has_density(self) -> bool:
        return self.likelihood is not None

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
        arguments = set(constructor_arguments(type(self))) - {*IN_STEPS, *_SETTABLE}
        names = {*arguments, *parts, "chain", "events"}
        # Those say by themselves that nobody sets them.
        self._fixed = frozenset(
            name
            for name in names
            if not isinstance(inspect.getattr_static(type(self), name, None), property)
        )

    def __call__(self, *args, **kwargs):
        """Reconstructs events, or maps them to the base; see `call`."""
        with AutocastScope(None):
            return super().__call__(*args, **kwargs)

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
        """Makes integer events continuous: (x + U[0, 1)) / num_levels.

        Args:
            x: `[batch, *event_shape]`; floats pass as they are.
            seed: Seed of the noise, an integer, or stateless, `[2]`; None takes the
                middle of each level.
        """
        seed = None if seed is None else stateless_seed(seed)
        return self.events.dequantize(x, seed)

    def corrupt(self, x: Any, *, seed: int | tf.Tensor | None = None) -> tf.Tensor:
        """Returns noisy events as the model is trained on.

        Args:
            x: `[batch, *event_shape]`; integers are taken at the middle of their level.
            seed: Seed of the noise; None draws a new one. In a data set's `map`, under
                a seed of TensorFlow's, each pass through the data draws the same.

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

    @traced
    def _objective_in_graph(self, x, seed):
        """The objective of events as they are: log-densities, or what stands for them.

        It is what `likelihood.function` and the endpoints of an export compute.
        """
        x = self.dequantize(x, seed)
        return self._objective_of(x, x, seed)

    @property
    def _events_per_pass(self) -> int:
        """How many events go through the model at once in bounded memory."""
        return events_per_pass(None, self.event_shape)

    @property
    def _densities_per_pass(self) -> int:
        """The same for the objective, and what else `_of_events` computes."""
        return self._events_per_pass

    def _of_events(self, function: Any, x: Any, seed: int | tf.Tensor | None) -> Any:
        """Values of events, e.g. densities, in passes of bounded memory.

        Args:
            function: Graph code from events `[n, *event_shape]` and a stateless seed to
                `[n]`, or a structure of such.
            x: Events as users give them.
            seed: Of all noise, which is a function of it and an event's place in `x`.
        """
        x, seed = self.events.checked(x, density=True), stateless_seed(seed)
        parts = list(passes(x, self._densities_per_pass))
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
        self._adapt_to(first_examples(data, ADAPT_EXAMPLES)[0])

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

    def _argument(self, name: str) -> Any:
        """The value of an argument of the constructor."""
        if name in ("num_levels", "logit_lambda"):
            return getattr(self.events, name)
        return self.dtype_policy if name == "dtype" else getattr(self, name)
