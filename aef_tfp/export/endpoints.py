"""What a SavedModel answers to: endpoints, their inputs, and the checks of these."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from aef_tfp.engine.noise import stateless_seed
from aef_tfp.models import EventModel

__all__ = ["Endpoint", "endpoints_of"]

_COUNT = tf.TensorSpec([], tf.int32)
# What a server can send in one answer, and importance samples that end in a day.
_MOST_BYTES = 2**31 - 1
_MOST_WEIGHTS = 10**6

_SEED = tf.TensorSpec([], tf.int64)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A function of named tensors, as it is in a SavedModel.

    Args:
        name: Name of the signature.
        method: Name of the model's method of the same meaning, and of the function on
            the loaded object: `encode` and `encode_levels` are one function there.
        inputs: Type and shape of each input, in order.
        output: Name of the one output.
        compute: Graph code from the inputs, in order, to the output.
    """

    name: str
    method: str
    inputs: Mapping[str, tf.TensorSpec]
    output: str
    compute: Callable[..., tf.Tensor]

    def __call__(self, *values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the output by its name."""
        return {self.output: self.compute(*values)}


def endpoints_of(model: EventModel) -> list[Endpoint]:
    """Returns the endpoints that a kind of model has.

    - with an encoder: `encode`, `decode`, `reconstruct`, `interpolate`
    - with a density: `sample`
    - the likelihood by its true name: `log_prob` where it is exact, `joint_log_prob` of
      an `ExpandedAEF`, `elbo` of one with expansion noise and of a `VAE` (the K-sample
      bound of an `IWAE`), and of these three `marginal_log_prob`, with the encoder as
      the proposal

    Those that take images take floats, in [0, 1] where a pixel logit precedes the
    model. If the model knows levels, each has a companion `..._levels` for integers.

    Args:
        model: A model of `aef_tfp.models`.
    """
    endpoints: list[Endpoint] = []
    if model.encodes:
        endpoints += _autoencoding(model)
    if model.samples:
        endpoints.append(_sample(model))
    if model.likelihood is not None:
        endpoints += _likelihood(model)
    if model.estimates:
        endpoints += _marginal(model)
    return endpoints


# Kinds of endpoints.


def _autoencoding(model: Any) -> list[Endpoint]:
    image = _event_name(model)
    latents = {"latents": tf.TensorSpec([None, model.latent_dim], model.events.dtype)}

    def decode(z):
        finite = tf.reduce_all(tf.math.is_finite(z))
        checks = [tf.debugging.Assert(finite, ["latents must be finite."])]
        return model._decode_latents(_after(checks, tf.ensure_shape(z, _spec_of(z))))

    def interpolate(start, end, num_steps):
        counts = tf.shape(start)[0], tf.shape(end)[0]
        checks = [
            tf.debugging.Assert(
                tf.equal(*counts),
                ["start and end must hold equally many events, got", *counts],
            ),
            _at_least(2, "num_steps", num_steps),
            _at_most(
                _most_entries(model) // tf.maximum(counts[0], 1), "num_steps", num_steps
            ),
        ]
        return model._interpolate(start, end, _after(checks, num_steps))

    return [
        *_of_events(model, "encode", [image], {}, "latents", model._encode_events),
        Endpoint("decode", "decode", latents, image, decode),
        *_of_events(model, "reconstruct", [image], {}, image, model._reconstruct),
        *_of_events(
            model,
            "interpolate",
            ["start", "end"],
            {"num_steps": _COUNT},
            image,
            interpolate,
        ),
    ]


def _sample(model: Any) -> Endpoint:
    inputs = {
        "num_samples": _COUNT,
        "temperature": tf.TensorSpec([], model.events.dtype),
        "seed": _SEED,
    }

    def sample(num_samples, temperature, seed):
        checks = [
            _at_least(1, "num_samples", num_samples),
            _at_most(_most_entries(model), "num_samples", num_samples),
            tf.debugging.Assert(
                tf.math.is_finite(temperature) & (temperature >= 0.0),
                ["temperature must be a finite number of at least 0, got", temperature],
            ),
        ]
        num_samples = _after(checks, num_samples)
        return model._sample(num_samples, temperature, False, stateless_seed(seed))

    return Endpoint("sample", "sample", inputs, _event_name(model), sample)


def _likelihood(model: Any) -> list[Endpoint]:
    """What the model trains on, by its true name."""
    name, is_noisy = model.likelihood.name, model.likelihood.is_noisy
    no_seed = tf.zeros([2], tf.int32)

    def of_events(x, seed=None):
        seed = no_seed if seed is None else stateless_seed(seed)
        return model._objective_in_graph(x, seed)

    return _of_events(
        model,
        name,
        [_event_name(model)],
        # Without noise it is a function of the dequantized event alone.
        {"seed": _SEED} if is_noisy else {},
        name,
        of_events,
        levels="dequantize",
    )


def _marginal(model: Any) -> list[Endpoint]:
    def marginal_log_prob(x, num_samples, seed):
        checks = [
            _at_least(1, "num_samples", num_samples),
            _at_most(_MOST_WEIGHTS, "num_samples", num_samples),
        ]
        num_samples = _after(checks, num_samples)
        return model._marginal_log_prob(x, num_samples, stateless_seed(seed))

    return _of_events(
        model,
        "marginal_log_prob",
        [_event_name(model)],
        {"num_samples": _COUNT, "seed": _SEED},
        "marginal_log_prob",
        marginal_log_prob,
        levels="keep",
    )


def _of_events(
    model: EventModel,
    name: str,
    events: Sequence[str],
    more: Mapping[str, tf.TensorSpec],
    output: str,
    compute: Callable[..., tf.Tensor],
    levels: Literal["middle", "dequantize", "keep"] = "middle",
) -> list[Endpoint]:
    """The endpoint for float events, and the one for integers.

    Args:
        model: The model.
        name: Name of the endpoint and of the model's method.
        events: Names of the inputs that are events.
        more: The other inputs.
        output: Name of the output.
        compute: From events and the other inputs to the output.
        levels: What becomes of integers before `compute` sees them: the middle of their
            level, dequantized under the input `seed` (which the companion gets if
            `more` lacks it), or nothing.
    """
    spec = model.events
    count = len(events)
    shape = [None, *spec.shape]

    def of_floats(*values):
        checked = [_checked_floats(model, x) for x in values[:count]]
        return compute(*checked, *values[count:])

    floats = dict.fromkeys(events, tf.TensorSpec(shape, spec.dtype))
    endpoints = [Endpoint(name, name, {**floats, **more}, output, of_floats)]
    num_levels = spec.num_levels
    if num_levels is None:
        return endpoints

    with_seed = {**more, "seed": _SEED} if levels == "dequantize" else more

    def of_integers(*values):
        arguments = dict(zip([*events, *with_seed], values, strict=True))
        checked = [_checked_levels(num_levels, x) for x in values[:count]]
        if levels != "keep":
            seed = stateless_seed(arguments["seed"]) if levels == "dequantize" else None
            checked = [model.dequantize(x, seed) for x in checked]
        return compute(*checked, *(arguments[key] for key in more))

    dtype = tf.uint8 if num_levels <= 256 else tf.int32
    integers = dict.fromkeys(events, tf.TensorSpec(shape, dtype))
    inputs = {**integers, **with_seed}
    return [*endpoints, Endpoint(f"{name}_levels", name, inputs, output, of_integers)]


def _event_name(model: EventModel) -> str:
    return "images" if len(model.event_shape) == 3 else "events"


# Checks inside the graph: a server has no other place for them.


def _after(checks: Sequence[Any], value: tf.Tensor) -> tf.Tensor:
    """Returns a value that is there once the checks have passed."""
    with tf.control_dependencies(checks):
        return tf.identity(value)


def _spec_of(value: tf.Tensor) -> list[int | None]:
    # The signature's static shape is a promise that the server's C++ code does not
    # check; `ensure_shape` does.
    return value.shape.as_list()


def _at_least(least: int, name: str, value: tf.Tensor) -> Any:
    return tf.debugging.Assert(
        value >= least, [f"{name} must be at least {least}, got", value]
    )


def _at_most(most: Any, name: str, value: tf.Tensor) -> Any:
    return tf.debugging.Assert(
        value <= most, [f"{name} must be at most", most, "here, got", value]
    )


def _most_entries(model: EventModel) -> int:
    """How many events one answer may hold."""
    return _MOST_BYTES // (4 * model.events.size)


def _checked_floats(model: EventModel, x: tf.Tensor) -> tf.Tensor:
    x = tf.ensure_shape(x, _spec_of(x))
    low, high = tf.reduce_min(x), tf.reduce_max(x)
    finite = tf.reduce_all(tf.math.is_finite(x))
    checks = [tf.debugging.Assert(finite, ["Events must be finite."])]
    if model.events.logit_lambda is not None:
        # Comparisons that an empty batch passes: its minimum is +inf.
        inside = tf.logical_not((low < 0.0) | (high > 1.0))
        message = "Float images must lie in [0, 1], got values from"
        checks.append(tf.debugging.Assert(inside, [message, low, "to", high]))
    return _after(checks, x)


def _checked_levels(num_levels: int, x: tf.Tensor) -> tf.Tensor:
    x = tf.ensure_shape(x, _spec_of(x))
    highest = num_levels - 1
    values = tf.cast(x, tf.int32)
    inside = tf.reduce_all((values >= 0) & (values <= highest))
    message = f"Integer events must lie in 0 ... {highest}."
    return _after([tf.debugging.Assert(inside, [message])], x)
