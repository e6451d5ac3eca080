"""Models with copies of another one's networks: a VAE becomes an AEF, and back."""

from typing import Any

from aef_tfp.models.files import constructor_arguments
from aef_tfp.models.frozen import freeze, frozen_layers
from aef_tfp.models.weights import give_weights

__all__ = ["check_has_parts", "copy_part", "with_parts_of"]

# What is not the same in another kind of model.
_OWN = {
    "name",
    "core_flow",
    "posterior_flow",
    "expansion",
    "expansion_noise",
    "proposal_scales",
    "num_importance_samples",
}


def copy_part(ours: Any, theirs: Any) -> None:
    """Gives a layer the weights of another one of its kind, and freezes what is there.

    Args:
        ours: The layer.
        theirs: The other one.
    """
    give_weights(ours, theirs.get_weights())
    freeze(ours, frozen_layers(theirs))


def check_has_parts(other: Any) -> None:
    """Raises a TypeError unless a model's parts serve a VAE and an expanded AEF."""
    if not getattr(other, "estimates", False):
        raise TypeError(
            "from_vae and from_aef take a VAE, an IWAE or an ExpandedAEF of aef_tfp, "
            f"got {type(other).__name__}; networks of another autoencoder go to "
            "the constructor, as encoder and decoder."
        )


def with_parts_of(cls: Any, other: Any, **arguments: Any) -> Any:
    """Builds a model with copies of another one's networks, prior and settings.

    Args:
        cls: Its class.
        other: The model to copy from; it stays as it is.
        **arguments: Of the constructor, in place of the other's.
    """
    config = other.get_config()
    names = set(constructor_arguments(cls)) - _OWN
    shared = {name: value for name, value in config.items() if name in names}
    model = cls.from_config({**shared, "format": config["format"], **arguments})
    for part in ("preprocessing", "encoder", "decoder", "prior_flow"):
        copy_part(getattr(model, part), getattr(other, part))
    model._is_adapted.assign(other._is_adapted)
    return model
