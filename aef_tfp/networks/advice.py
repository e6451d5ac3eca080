"""Warnings about networks that work, but not as their author expects."""

import warnings
import weakref
from typing import Any

import keras

__all__ = [
    "refuse_half_precision",
    "refuse_shared",
    "warn_if_bounded",
    "warn_if_shared",
]

# The model that each network belongs to.
_owners: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

_BOUNDED = ("sigmoid", "hard_sigmoid", "tanh", "hard_tanh", "softmax", "relu6")

# Layers that leave the range of their input as it is.
_RESHAPING = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Cropping2D,
)


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


def refuse_shared(parts: dict[str, keras.layers.Layer]) -> None:
    """Refuses a layer that is in two parts of a model.

    Args:
        parts: Layers by the names that messages call them.

    Raises:
        ValueError: If there is one: a file keeps each part for itself.
    """
    places: dict[int, str] = {}
    for role, part in parts.items():
        for layer in part._flatten_layers():
            other = places.setdefault(id(layer), role)
            if other != role:
                raise ValueError(
                    f"The layer {layer.name!r} is in both {other} and {role}, which no "
                    "file could keep; make one for each."
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
        network: Keras layer or model from latents to the location of events.
    """
    layer = network
    while getattr(layer, "layers", None):
        layer = next(
            (one for one in reversed(layer.layers) if not isinstance(one, _RESHAPING)),
            None,
        )
    name = getattr(getattr(layer, "activation", None), "__name__", "")
    if name in _BOUNDED:
        warnings.warn(
            f"The decoder ends in {name}, but it predicts logits of pixels, which have "
            "no bounds (the model maps them to [0, 1] itself); let it end in a linear "
            "layer, activation=None.",
            stacklevel=4,
        )
