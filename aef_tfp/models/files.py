"""How a model becomes a configuration and files, and comes back."""

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from aef_tfp.models.frozen import freeze, frozen_layers
from aef_tfp.models.mixin import Mixin
from aef_tfp.models.weights import give_weights, normalizations

__all__ = ["EXPORTERS", "Files", "constructor_arguments"]

# Of what weights mean. Format 1 had no number: maps from many inputs had no gain, and
# files did not say which layers were frozen.
_FORMAT = 2
_SAVED_IN = "The model was saved in format"

# Writers of files by format, which `aef_tfp.export` puts here when it is loaded.
EXPORTERS: dict[str, Callable[[Any, Any], dict[str, float]]] = {}


class Files(Mixin):
    """What Keras does with files, for a model of events (a mixin of `EventModel`).

    The configuration follows from the constructor: each argument is an attribute of the
    same name, or `_argument` knows it.
    """

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
        # Keras has this method on the model, while the room of files lies below this
        # one, and registers its formats.
        importlib.import_module("aef_tfp.export")
        if format not in EXPORTERS:
            allowed = " or ".join(map(repr, EXPORTERS))
            raise ValueError(f"format must be {allowed}, got {format!r}.")
        unknown = sorted(set(kwargs) - {"verbose"})
        if unknown:
            raise ValueError(
                f"export takes no {unknown[0]!r}: a model's endpoints have their "
                "own inputs."
            )
        return EXPORTERS[format](self, filepath)

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        return {
            **{
                name: _serialized(self._argument(name))
                for name in constructor_arguments(type(self))
            },
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

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Reads weights; arguments as in `keras.Model.load_weights`.

        Raises:
            ValueError: If they do not fit, or an older version wrote them; the model
                keeps those that it has.
        """
        former = self.get_weights()
        self._found_format: int | None = _FORMAT
        try:
            with warnings.catch_warnings(record=skip_mismatch) as said:
                if skip_mismatch:
                    warnings.simplefilter("always")
                super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        except ValueError as error:
            # Some were loaded, or all.
            give_weights(self, former)
            # Keras lists all objects that it could not load, and why one of them.
            for line in str(error).splitlines():
                if line.startswith(_SAVED_IN):
                    raise ValueError(line) from None
            raise
        if self._found_format != _FORMAT:
            # Keras went on with the layers: to it, this is a mismatch of one object.
            give_weights(self, former)
            raise ValueError(_other_format(self._found_format))
        if normalizations(self):
            self._trace_anew()
        for warning in said or ():
            warnings.warn(warning.message, stacklevel=2)

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
        self._found_format = found
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


def constructor_arguments(cls: type) -> list[str]:
    """Returns the names of the arguments of a model's constructor.

    Args:
        cls: A model; of a user's own class, the model that it extends counts: what it
            adds is its own to keep, as in Keras.
    """
    ours = next(
        owner
        for owner in cls.__mro__
        if owner.__module__.startswith("aef_tfp.") and "__init__" in vars(owner)
    )
    constructor: Any = vars(ours)["__init__"]
    return list(inspect.signature(constructor).parameters)[1:]


def _serialized(value: Any) -> Any:
    if isinstance(value, keras.DTypePolicy):
        return keras.dtype_policies.serialize(value)
    if isinstance(value, keras.layers.Layer):
        return keras.saving.serialize_keras_object(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
