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
from aef_tfp.networks.convolutions import Conv2D, Conv2DTranspose
from aef_tfp.networks.equalized import EqualizedDense
from aef_tfp.networks.gaussian import (
    DECODER_SCALES,
    GaussianDecoder,
    GaussianEncoder,
    PointEncoder,
)
from aef_tfp.networks.made import MADE, MaskedDense
from aef_tfp.networks.mode import training_mode
from aef_tfp.networks.residual import (
    BottleneckBlock,
    Stage,
    residual_decoder,
    residual_encoder,
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
    "conv_decoder",
    "conv_encoder",
    "dense_decoder",
    "dense_encoder",
    "get_decoder",
    "get_encoder",
    "residual_decoder",
    "residual_encoder",
    "training_mode",
]
