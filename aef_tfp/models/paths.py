"""Where each weight of a model sits: its path."""

from typing import Any

import keras

from aef_tfp.networks.expansion import expanding

__all__ = ["name_weights"]


def name_weights(parts: dict[str, keras.layers.Layer]) -> None:
    """Gives each weight of a model's parts a path that no other has.

    The path leads from the part through the names of the layers to the weight, as in
    `prior_flow/autoregressive_0/made/first/kernel`. Keras makes paths of the layers
    that are being built when a weight is created. So two networks of a user, each with
    a layer of the same name, would share theirs, and a loaded model would have others
    than the one that was saved.

    Args:
        parts: The layers that a model is made of, by the first name of their paths.
    """
    paths: dict[int, str] = {}
    with expanding():
        for name, layer in parts.items():
            _name_weights(layer, name, paths)


def _name_weights(layer: Any, path: str, paths: dict[int, str]) -> None:
    names: set[str] = set()
    for child in _children(layer):
        # A network that is named after the part that it is adds nothing.
        is_same = child.name == path.rpartition("/")[2]
        name = "" if is_same else "/" + _unused(child.name, names)
        _name_weights(child, path + name, paths)
    for weight in layer.weights:
        if id(weight) not in paths:
            # Keras sets it when the weight is created, and never again.
            weight._path = _unused(f"{path}/{weight.name}", set(paths.values()))
            paths[id(weight)] = weight._path


def _children(layer: Any) -> list[Any]:
    """A layer's own layers, those that a summary shows first."""
    shown = getattr(layer, "layers", [])
    owned = layer._flatten_layers(include_self=False, recursive=False)
    return list({id(child): child for child in (*shown, *owned)}.values())


def _unused(name: str, names: set[str]) -> str:
    """Returns a name that is not among those given, with a number if need be."""
    number, unused = 0, name
    while unused in names:
        number += 1
        unused = f"{name}_{number}"
    names.add(unused)
    return unused
