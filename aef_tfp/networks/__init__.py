"""Keras layers and models that hold the weights of an AEF."""

from aef_tfp.networks.affine import AffineSequential
from aef_tfp.networks.autoencoders import (
    conv_decoder,
    conv_encoder,
    dense_decoder,
    dense_encoder,
    get_decoder,
    get_encoder,
)
from aef_tfp.networks.batching import (
    density_dtype,
    events_per_pass,
    in_passes,
    passes,
    with_flat_batch,
)
from aef_tfp.networks.convolutions import Conv2D, Conv2DTranspose, arranging_for_xla
from aef_tfp.networks.equalized import EqualizedDense
from aef_tfp.networks.gaussian import (
    DECODER_SCALES,
    GaussianDecoder,
    GaussianEncoder,
    PointEncoder,
    positive_scale,
)
from aef_tfp.networks.made import MADE, MaskedDense
from aef_tfp.networks.recursion import compiling_recursions
from aef_tfp.networks.rematerialization import recomputed, rematerializing
from aef_tfp.networks.residual import (
    BottleneckBlock,
    Stage,
    residual_decoder,
    residual_encoder,
    residual_stages,
)

__all__ = [
    "DECODER_SCALES",
    "MADE",
    "AffineSequential",
    "BottleneckBlock",
    "Conv2D",
    "Conv2DTranspose",
    "EqualizedDense",
    "GaussianDecoder",
    "GaussianEncoder",
    "MaskedDense",
    "PointEncoder",
    "Stage",
    "arranging_for_xla",
    "compiling_recursions",
    "conv_decoder",
    "conv_encoder",
    "dense_decoder",
    "dense_encoder",
    "density_dtype",
    "events_per_pass",
    "get_decoder",
    "get_encoder",
    "in_passes",
    "passes",
    "positive_scale",
    "recomputed",
    "rematerializing",
    "residual_decoder",
    "residual_encoder",
    "residual_stages",
    "with_flat_batch",
]
