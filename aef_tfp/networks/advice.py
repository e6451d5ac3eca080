"""Warnings about networks that work, but not as their author expects."""

import warnings
import weakref
from typing import Any

import keras
import numpy as np

__all__ = [
    "refuse_half_precision",
    "refuse_random",
    "refuse_shared",
    "warn_if_bounded",
    "warn_if_for_pixels",
    "warn_if_shared",
]

# The model that each network belongs to.
_owners: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

# Activations whose values have a bound, at least on one side; of layers and operations,
# the names of their classes.
_BOUNDED = {
    *("sigmoid", "hard_sigmoid", "hardsigmoid", "tanh", "hard_tanh", "hardtanh"),
    *("softmax", "relu", "relu6", "softplus", "exponential", "exp", "clip"),
}

# Layers that leave a bound where it is, or move it.
_RESHAPING = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Cropping2D,
    keras.layers.Rescaling,
)

# What an encoder's inputs become all but equal by; pixels of 0 to 255 are divided by
# their spread, some 70, or by 127.5 or 255.
_MUCH = 20.0


def refuse_half_precision(role: str, network: Any) -> None:
    """Refuses layers that compute in float16.

    Args:
        role: What the message calls the network.
        network: Keras layer or model.

    Raises:
        ValueError: If there is one.
    """
    for layer in network._flatten_layers():
        if layer.compute_dtype == "float16":
            raise ValueError(
                f"The {role}'s layer {layer.name!r} computes in float16, which logits "
                "of pixels and their gradients overflow; build it with "
                "'mixed_bfloat16' or 'float32'."
            )


def refuse_random(role: str, network: Any, input_shape: tuple[int, ...]) -> None:
    """Refuses a network that draws noise out of training, like the encoders of VAEs.

    What a network says of an image must be the same each time, or a density is not that
    of the image. Only networks that have layers that may draw are called.

    Args:
        role: What the message calls the network.
        network: Keras layer or model.
        input_shape: Of one example.

    Raises:
        ValueError: If two calls differ by more than rounding.
    """
    if not any(_may_draw(layer) for layer in network._flatten_layers()):
        return
    x = np.random.default_rng(0).normal(size=(2, *input_shape)).astype("float32")
    once, again = (
        [np.asarray(keras.ops.cast(y, "float64")) for y in keras.tree.flatten(outputs)]
        for outputs in (network(x, training=False) for _ in range(2))
    )
    for a, b in zip(once, again, strict=True):
        if np.abs(a - b).max(initial=0.0) > 1e-3 * np.abs(a).max(initial=0.0):
            raise ValueError(
                f"The {role} draws noise out of training: for the same input two calls "
                f"differ by up to {np.abs(a - b).max():.3g}; leave out the layer that "
                "samples, the model draws its noise itself (layers such as Dropout "
                "draw in training only)."
            )


def _may_draw(layer: keras.layers.Layer) -> bool:
    """Whether a layer draws, as far as its class or its generators tell."""
    is_known = type(layer).__module__.partition(".")[0] in ("keras", "aef_tfp")
    is_code = isinstance(layer, keras.layers.Lambda) or not is_known
    return is_code or bool(layer._seed_generators)


def refuse_shared(parts: dict[str, keras.layers.Layer]) -> None:
    """Refuses a layer, or a weight, that is in two parts of a model.

    Args:
        parts: Layers by the names that messages call them.

    Raises:
        ValueError: If there is one: a file keeps each part for itself.
    """
    places: dict[int, str] = {}
    for role, part in parts.items():
        kinds = {"layer": part._flatten_layers(), "weight": part.weights}
        for kind, shared in kinds.items():
            for one in shared:
                other = places.setdefault(id(one), role)
                if other != role:
                    raise ValueError(
                        f"The {kind} {one.name!r} is in both {other} and {role}, which "
                        "no file could keep; make one for each."
                    )


def warn_if_shared(role: str, network: Any, owner: Any) -> None:
    """Warns if another model trains the same network, and notes the new owner.

    Args:
        role: What the message calls the network.
        network: Keras layer or model.
        owner: The model that it is part of now.
    """
    other = _owners.get(network, lambda: None)()
    if other is not None and other is not owner:
        warnings.warn(
            f"This {role} is part of the model {other.name!r}, too: training one "
            "changes the other. Build a new one, or use "
            "keras.models.clone_model(network), unless that is meant.",
            stacklevel=4,
        )
    _owners[network] = weakref.ref(owner)


def warn_if_bounded(network: Any) -> None:
    """Warns if a decoder's location of logits ends in a bounded activation.

    Args:
        network: Keras layer or model from latents to the location of events, or to
            location and scale.
    """
    last = _last(network)
    activation = getattr(last, "activation", None)
    name = getattr(activation, "__name__", type(last).__name__.lower())
    if name in _BOUNDED:
        warnings.warn(
            f"The decoder ends in {name}, but it predicts logits of pixels, which have "
            "no bounds (the model maps them to [0, 1] itself); let it end in a linear "
            "layer, activation=None.",
            stacklevel=4,
        )


def warn_if_for_pixels(network: Any) -> None:
    """Warns if an encoder begins by dividing its inputs as if they were pixels.

    Args:
        network: Keras layer or model of preprocessed events.
    """
    first = network
    while parts := _parts_of(first):
        first = next((part for part in parts if not _moves(part)), None)
    divisor = _divisor(first)
    if divisor > _MUCH:
        what = f"{type(first).__name__} {first.name!r}"
        warnings.warn(
            f"The encoder begins with {what}, which divides by {divisor:.4g}, but it "
            "gets logits of pixels that are normalized already, to mean 0 and "
            "deviation 1, and would see next to nothing; leave it out "
            "(include_preprocessing=False in keras.applications).",
            stacklevel=4,
        )


def _moves(part: Any) -> bool:
    """Whether a part of a network does no more than place and shift its input."""
    if isinstance(part, keras.layers.Rescaling):
        return False
    shifts = type(part).__name__ in ("Add", "Subtract") and _constant(part) is not None
    casts = type(part).__name__ in ("Cast", "Reshape")
    return shifts or casts or isinstance(part, (keras.layers.InputLayer, *_RESHAPING))


def _divisor(part: Any) -> float:
    """What a part divides by, the least of all channels; 1 if it does not divide."""
    constant = _constant(part)
    if isinstance(part, keras.layers.Rescaling):
        factor = np.asarray(part.scale, np.float64)
    elif isinstance(part, keras.layers.Normalization):
        factor = keras.ops.convert_to_numpy(part.variance) ** -0.5
    elif type(part).__name__ == "Multiply" and constant is not None:
        factor = np.asarray(constant)
    elif type(part).__name__ in ("Divide", "TrueDivide") and constant:
        factor = 1.0 / np.asarray(constant)
    else:
        return 1.0
    return 1.0 / float(np.maximum(np.abs(factor).max(), 1e-30))


def _constant(part: Any) -> float | None:
    """The number that an operation of a functional model combines its input with."""
    nodes = getattr(part, "_inbound_nodes", None) or []
    numbers = [
        argument
        for node in nodes[:1]
        for argument in node.arguments.args
        if isinstance(argument, (int, float))
    ]
    return numbers[0] if numbers else None


def _last(network: Any) -> Any:
    """What the first output comes out of, but for what leaves a bound."""
    outputs = getattr(network, "outputs", None)
    if outputs:
        last, node, _ = outputs[0]._keras_history
        while isinstance(last, _RESHAPING) or type(last).__name__ == "Reshape":
            (before, *_) = last._inbound_nodes[node].input_tensors
            last, node, _ = before._keras_history
    else:
        parts = reversed(_parts_of(network))
        last = next((one for one in parts if not isinstance(one, _RESHAPING)), None)
    return _last(last) if _parts_of(last) else last


def _parts_of(network: Any) -> list[Any]:
    """Layers, and operations without one, as they follow each other."""
    return getattr(network, "operations", None) or getattr(network, "layers", [])
