"""What each kind of model has, for what is decided before there is a model.

A model says by itself what it can do. Options, presets and defaults are decided
earlier, and ask here. This module imports no TensorFlow, as `config`.
"""

import dataclasses
from typing import Literal

__all__ = ["KINDS", "Kind", "ModelName"]

ModelName = Literal[
    "aef-center",
    "aef-corner",
    "aef-random",
    "aef-linear",
    "vae",
    "iwae",
    "autoencoder",
    "pixel-maf",
]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a kind of model has.

    Args:
        likelihood: How log p(x) is had: exactly, by importance sampling, or not at all.
        has_networks: Whether it has an encoder, a decoder, and latents between them.
        has_latent_flows: Whether it has flows over the latents, and with them a decoder
            that says how sure it is.
        first_flow: What the paper calls the flow beside the prior's.
        own_settings: Settings of a run that no other kind reads.
    """

    likelihood: Literal["exact", "estimated", "none"]
    has_networks: bool = True
    has_latent_flows: bool = True
    first_flow: Literal["core", "posterior"] = "core"
    own_settings: tuple[str, ...] = ()


KINDS: dict[ModelName, Kind] = {
    "aef-center": Kind("exact"),
    "aef-corner": Kind("exact"),
    "aef-random": Kind("exact"),
    "aef-linear": Kind("estimated", own_settings=("expansion_noise",)),
    "vae": Kind("estimated", first_flow="posterior"),
    "iwae": Kind(
        "estimated",
        first_flow="posterior",
        own_settings=("num_importance_samples",),
    ),
    "autoencoder": Kind("none", has_latent_flows=False),
    "pixel-maf": Kind("exact", has_networks=False, has_latent_flows=False),
}
"""What the models of a run have, by their names."""
