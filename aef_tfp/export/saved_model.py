"""Writing a SavedModel, checked before it gets its name."""

import inspect
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from aef_tfp.engine.layer_metrics import metrics_of_layers
from aef_tfp.engine.tracing import tracing
from aef_tfp.export.comparison import compare
from aef_tfp.export.endpoints import Endpoint, endpoints_of
from aef_tfp.export.names import shorten_names
from aef_tfp.files import check_name
from aef_tfp.models import EventModel
from aef_tfp.models.weights import give_weights
from aef_tfp.networks import MaskedDense

__all__ = ["check_is_free", "copy_for_inference", "export_saved_model"]


def export_saved_model(model: EventModel, path: str | Path) -> dict[str, float]:
    """Writes a model as a SavedModel, which loads with TensorFlow alone.

    Each endpoint of `endpoints_of` becomes a signature and a function of the loaded
    object; `serving_default` is `reconstruct`, or `log_prob` of a model without an
    encoder. The files are written beside `path`, loaded, compared with the model, and
    only then moved to `path`.

    Args:
        model: A trained or adapted model; it stays as it is. It may live under a
            `tf.distribute` strategy.
        path: Directory that does not exist yet. TensorFlow Serving wants the last part
            to be a version number: `models/digits/1`.

    Returns:
        For each endpoint the largest difference between the loaded file and the model,
        relative to the largest value (at least 1).

    Raises:
        FileExistsError: If `path` exists.
        ValueError: If the model is untrained, a custom layer of it is not registered
            with Keras, or `path` is no UTF-8.
        RuntimeError: If an endpoint of the file differs from the model.

    Example:
        >>> differences = export_saved_model(model, "exported/1")
        >>> max(differences.values()) < 1e-4
        True
    """
    path = Path(path).expanduser()
    check_is_free(path)
    frozen = copy_for_inference(model)
    module, signatures = _module_of(frozen)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename within one file system is atomic.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as new:
        directory = Path(new) / path.name
        with tracing():
            tf.saved_model.save(
                module,
                str(directory),
                signatures=signatures,
                # Only training needs the gradients of TFP's functions.
                options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
            )
        shorten_names(directory)
        differences = compare(model, endpoints_of(frozen), directory)
        # Fails where somebody put something in the meantime.
        directory.rename(path)
    return differences


def check_is_free(path: Path) -> None:
    """Raises an error if something is at `path`, or nothing can be."""
    check_name(path)
    if path.exists() or path.is_symlink():
        raise FileExistsError(
            f"{path} exists; nothing is overwritten, choose another path."
        )


def copy_for_inference(model: EventModel) -> EventModel:
    """Returns a copy of a model whose weights are plain and whose masks are applied.

    The copy has variables of one device whatever strategy the model lives under. Masks
    of MADE layers are in its kernels, since as constants of every function they would
    be several times as large as the weights.

    Raises:
        ValueError: If the model is untrained, or cannot be rebuilt from its config.
    """
    if not bool(model._is_adapted.numpy()):
        raise ValueError(
            "The model is untrained, its normalization is not initialized; call fit "
            "(or adapt) before export."
        )
    try:
        copy = type(model).from_config(model.get_config())
    # The last is what Keras raises of arguments that it cannot write.
    except (TypeError, ValueError, NotImplementedError) as error:
        # Keras breaks its first sentence into lines, and then gives an example.
        reason = " ".join(str(error).strip().partition("\n\n")[0].split())
        raise ValueError(
            "The model cannot be rebuilt from its config; make Lambda layers classes, "
            "give custom layers a get_config and decorate them with "
            "keras.saving.register_keras_serializable(). Keras says: "
            f"{reason}"
        ) from error
    give_weights(copy, model.get_weights())
    for layer in copy._flatten_layers():
        if isinstance(layer, MaskedDense):
            layer.fold_mask()
    return copy


def _module_of(model: EventModel) -> tuple[tf.Module, dict[str, Any]]:
    """A module of plain functions over the model's variables, and its signatures.

    Without the Keras objects: tracked as such, each weight would be stored twice.
    """
    module = tf.Module()
    # Functions hold what layers count, too, though nobody reads it there.
    counted = [v for metric in metrics_of_layers(model) for v in metric.variables]
    kept = (*model.variables, *counted)
    module.weights = [variable.value for variable in kept]
    by_method: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints_of(model):
        by_method.setdefault(endpoint.method, []).append(endpoint)
    signatures = {}
    for method, endpoints in by_method.items():
        function = _function_of(method, endpoints)
        setattr(module, method, function)
        # Integers first: the loaded function takes the first that fits, and a list of
        # Python integers fits both.
        for endpoint in reversed(endpoints):
            signatures[endpoint.name] = _signature_of(function, endpoint)
    default = "reconstruct" if model.encodes else "log_prob"
    return module, {**signatures, "serving_default": signatures[default]}


def _function_of(method: str, endpoints: list[Endpoint]) -> Any:
    """One function for floats and integers; only the integers' may want a seed."""
    by_dtype = {next(iter(one.inputs.values())).dtype: one for one in endpoints}

    def function(*values, **named):
        bound = signature.bind(*values, **named)
        present = [value for value in bound.arguments.values() if value is not None]
        return by_dtype[present[0].dtype](*present)

    shared, all_names = endpoints[0].inputs, endpoints[-1].inputs
    signature = inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if name in shared else None,
            )
            for name in all_names
        ]
    )
    function.__name__ = method
    # tf.function reads it: the loaded function then takes names, too.
    function.__signature__ = signature  # type: ignore[attr-defined]
    return tf.function(function, autograph=False)


def _signature_of(function: Any, endpoint: Endpoint) -> Any:
    """A function of one endpoint's inputs alone.

    Not traced yet: what is traced before the saving begins is traced again there, and
    both would be in the file.
    """
    names = list(endpoint.inputs)

    def signature(*values):
        return function(**dict(zip(names, values, strict=True)))

    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name)
        for name, spec in endpoint.inputs.items()
    ]
    return tf.function(signature, input_signature=specs, autograph=False)
