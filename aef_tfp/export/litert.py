"""LiteRT files of the encoder and the decoder, through Keras's own export."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.export.comparison import NUM_EVENTS, relative_difference
from aef_tfp.export.saved_model import check_is_free, copy_for_inference
from aef_tfp.models import EventModel

__all__ = ["export_litert"]


def export_litert(model: Any, path: str | Path) -> dict[str, float]:
    """Writes `encode.tflite` and `decode.tflite` for LiteRT (TensorFlow Lite).

    Both take float32 and any batch size; `encode` takes images in [0, 1] where a pixel
    logit precedes the model. There are no checks of values in these files. Keras's
    converter does the work; it has no form for the loop of a core flow's sequential
    direction, so a `PartitionedAEF` gets `encode.tflite` only.

    Args:
        model: A trained or adapted model with an encoder; it stays as it is.
        path: Directory that does not exist yet.

    Returns:
        For each file the largest difference from the model, relative to the largest
        value (at least 1).

    Raises:
        FileExistsError: If `path` exists.
        ValueError: If the model has no encoder, is not in single precision, is
            untrained, or has a custom layer that is not registered with Keras.
        RuntimeError: If a file differs from the model.

    Example:
        >>> differences = export_litert(model, "exported/litert")
        >>> sorted(differences)
        ['decode', 'encode']
    """
    if not model.encodes:
        raise ValueError(
            f"A {type(model).__name__} has no encoder and no decoder, so nothing to "
            "export for LiteRT; export a SavedModel instead."
        )
    for layer in model._flatten_layers():
        if layer.compute_dtype != "float32":
            raise ValueError(
                f"LiteRT files hold float32, the model has {layer.compute_dtype} in "
                f"layer {layer.path!r}; export a SavedModel instead."
            )
    path = Path(path).expanduser()
    check_is_free(path)
    frozen = copy_for_inference(model)
    parts: dict[str, tuple[Callable, Callable, tuple[int, ...]]]
    parts = {"encode": (frozen._encode_events, model.encode, model.event_shape)}
    if model.decodes_in_parallel:
        latent_shape = (model.latent_dim,)
        parts["decode"] = (frozen._decode_latents, model.decode, latent_shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    differences = {}
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as new:
        directory = Path(new) / path.name
        directory.mkdir()
        for name, (compute, answer, shape) in parts.items():
            file = directory / f"{name}.tflite"
            _Part(name, frozen, compute).export(
                file,
                format="litert",
                input_signature=[keras.InputSpec("float32", (None, *shape))],
                verbose=False,
            )
            x = np.random.default_rng(0).uniform(size=(NUM_EVENTS, *shape))
            x = x.astype("float32")
            differences[name] = relative_difference(
                f"{name}.tflite", _run(file, x), answer(x).numpy()
            )
        directory.rename(path)
    return differences


class _Part(keras.Model):
    """One map of a model in the form that Keras exports."""

    def __init__(self, name: str, model: EventModel, compute: Callable):
        super().__init__(name=name)
        self._model = model
        self._compute = compute
        self.built = True

    def call(self, x):
        return self._compute(x)


def _run(file: Path, x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # The interpreter says that it moves to a package of its own.
        warnings.simplefilter("ignore", UserWarning)
        interpreter: Any = tf.lite.Interpreter(str(file))
    (given,) = interpreter.get_input_details()
    (returned,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(returned["index"])
