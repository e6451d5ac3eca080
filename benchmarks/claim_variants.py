"""Trains a VAE that differs from the paper's in one part of its encoder.

    python benchmarks/claim_variants.py linear-path celeba10k32-vae-256 [OPTIONS]

All else is `trainers/run.py`, whose options follow. `benchmarks/claim.py faces-gap`
asks by these what an AEF has over a VAE when both have learned for a short time:

    narrow         The posterior's scale starts at 0.05 in place of 0.69: an AEF has no
                   noise to get rid of.
    linear-path    The posterior's location gains a linear map of the image, as an AEF's
                   latents have one in the expansion h.
"""

import sys
from typing import Any

import keras
import numpy as np

from aef_tfp.networks import (
    BottleneckBlock,
    EqualizedDense,
    conv_encoder,
    residual_encoder,
)
from aef_tfp.runs import building, training
from aef_tfp.runs.commands import train

_NARROW = 0.05

# As the heads of the paper's networks, and the expansion, are scaled.
_HEAD, _EXPANSION = {"reference_inputs": 2048}, {"reference_inputs": 256}


def narrow() -> None:
    """Lets each posterior start narrow."""
    build = training.build_model

    def build_narrow(*arguments: Any) -> Any:
        model = build(*arguments)
        if hasattr(model.encoder, "scale_head"):
            bias = model.encoder.scale_head.bias
        else:
            # A residual encoder's last block returns locations, and then raw scales.
            blocks = model.encoder.network.layers
            last = [block for block in blocks if isinstance(block, BottleneckBlock)][-1]
            bias = last.convolutions[-1].bias
        raw_scale = np.log(np.expm1(_NARROW))
        kept = bias.numpy()[: -model.latent_dim]
        bias.assign(np.append(kept, np.full(model.latent_dim, raw_scale)))
        return model

    training.build_model = build_narrow


def linear_path() -> None:
    """Gives the encoder a linear path beside its convolutions."""
    networks = building._networks

    def with_path(config: Any, shape: Any, encoder_outputs: int) -> dict[str, Any]:
        d = config.latent_dim
        image = keras.Input(shape)
        is_residual = config.networks == "residual"
        if is_residual:
            features = residual_encoder(shape, d, width=config.width)(image)
        else:
            features = conv_encoder(shape)(image)
        linear = EqualizedDense(d, use_bias=False, name="linear_path", **_EXPANSION)(
            keras.layers.Flatten()(image)
        )
        if is_residual:  # which ends in location and scale itself
            loc, scale = features
        else:
            loc = EqualizedDense(d, name="loc", **_HEAD)(features)
            raw_scale = EqualizedDense(d, name="raw_scale", **_HEAD)(features)
            scale = keras.layers.Activation("softplus")(raw_scale)
        outputs = [keras.layers.Add()([loc, linear]), scale]
        own = networks(config, shape, encoder_outputs)
        return {**own, "encoder": keras.Model(image, outputs)}

    building._networks = with_path


_VARIANTS = {"narrow": narrow, "linear-path": linear_path}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in _VARIANTS:
        raise SystemExit(__doc__)
    _VARIANTS[sys.argv[1]]()
    sys.exit(train.main(sys.argv[2:]))
