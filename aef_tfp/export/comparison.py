"""Is the file the model? Every endpoint of a SavedModel against the model's method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from aef_tfp.export.endpoints import Endpoint
from aef_tfp.models import EventModel

__all__ = ["NUM_EVENTS", "compare", "relative_difference"]

# Events of a comparison; not one, since a lost batch axis would then go unseen.
NUM_EVENTS = 3

_EXAMPLES = {"num_steps": 5, "num_samples": 4, "temperature": 0.85, "seed": 2**40 + 7}

# Largest relative difference: two graphs of the same float32 operations may round
# differently, and a sample's rounding errors grow along a flow.
_TOLERANCE = 1e-3


def compare(
    model: EventModel, endpoints: Sequence[Endpoint], directory: Path
) -> dict[str, float]:
    """Loads a SavedModel and compares every endpoint with the model.

    Args:
        model: What the file was made of.
        endpoints: What the file must answer to.
        directory: The SavedModel.

    Returns:
        For each endpoint the largest difference, relative to the largest value of the
        model (at least 1).

    Raises:
        RuntimeError: If one is not finite, has another shape or differs too much.
    """
    signatures = tf.saved_model.load(str(directory)).signatures
    differences = {}
    for endpoint in endpoints:
        values = _example_inputs(model, endpoint)
        tensors = {
            name: tf.constant(values[name], spec.dtype)
            for name, spec in endpoint.inputs.items()
        }
        got = signatures[endpoint.name](**tensors)[endpoint.output].numpy()
        wanted = np.asarray(_answer_of_model(model, endpoint, values))
        differences[endpoint.name] = relative_difference(
            f"Endpoint {endpoint.name}", got, wanted
        )
    return differences


def relative_difference(name: str, got: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value (at least 1).

    Args:
        name: What the message calls the values.
        got: From the file.
        wanted: From the model.

    Raises:
        RuntimeError: If they differ too much or in shape, or are not finite.
    """
    if got.shape != wanted.shape:
        raise RuntimeError(
            f"{name} of the file returns shape {got.shape}, the model {wanted.shape}."
        )
    scale = max(1.0, float(np.abs(wanted).max()))
    difference = float(np.abs(got - wanted).max()) / scale
    # The comparison is false where one of them is NaN.
    if not difference <= _TOLERANCE:
        raise RuntimeError(
            f"{name} of the file differs from the model by {difference:.2g} (relative "
            f"to {scale:.3g}), more than {_TOLERANCE:g}; nothing was exported."
        )
    return difference


def _answer_of_model(model: EventModel, endpoint: Endpoint, values: dict) -> Any:
    values = dict(values)
    seed = {"seed": values.pop("seed")} if "seed" in values else {}
    return getattr(model, endpoint.method)(*values.values(), **seed)


def _example_inputs(model: EventModel, endpoint: Endpoint) -> dict[str, Any]:
    return {
        name: _EXAMPLES[name]
        if spec.shape.rank == 0
        else _example_array(model, spec, seed=index)
        for index, (name, spec) in enumerate(endpoint.inputs.items())
    }


def _example_array(model: Any, spec: tf.TensorSpec, seed: int) -> np.ndarray:
    """Events or latents: of the model's own where it can draw them."""
    rng = np.random.default_rng(seed)
    shape = [NUM_EVENTS, *spec.shape[1:]]
    if tuple(spec.shape[1:]) != model.event_shape:
        return rng.normal(size=shape).astype(spec.dtype.as_numpy_dtype)
    if model.samples:
        events = model.sample(NUM_EVENTS, 0.85, seed).numpy()
    else:
        events = rng.uniform(size=shape)
    num_levels = model.events.num_levels
    if spec.dtype.is_integer and num_levels is not None:
        events = np.clip(np.floor(events * num_levels), 0, num_levels - 1)
    return events.astype(spec.dtype.as_numpy_dtype)
