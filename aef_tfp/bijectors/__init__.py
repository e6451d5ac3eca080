"""Stateless bijectors of the AEF chain.

Directions are TensorFlow Probability's: `forward` maps base to data, `inverse` maps
data to base. No class in this module owns a weight. A conditioner is any callable; the
layers of `aef_tfp.networks` are the usual ones, and since a bijector only calls them,
it always sees their present weights.
"""

from aef_tfp.bijectors.autoregressive import (
    IDENTITY_PARAMETERS,
    AutoregressiveConditioner,
    MaskedAutoregressive,
    affine_inverse,
)
from aef_tfp.bijectors.coupling import (
    PairCoupling,
    decoder_coupling,
    encoder_coupling,
)
from aef_tfp.bijectors.partition import (
    Partition,
    center_mask,
    corner_mask,
    partition_mask,
    random_mask,
)
from aef_tfp.bijectors.pixels import PixelLogit
from aef_tfp.bijectors.scaling import FeatureAffine

__all__ = [
    "IDENTITY_PARAMETERS",
    "AutoregressiveConditioner",
    "FeatureAffine",
    "MaskedAutoregressive",
    "PairCoupling",
    "Partition",
    "PixelLogit",
    "affine_inverse",
    "center_mask",
    "corner_mask",
    "decoder_coupling",
    "encoder_coupling",
    "partition_mask",
    "random_mask",
]
