"""The small encoders and decoders: plain Keras models without Gaussian heads."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from aef_tfp.networks.affine import AffineSequential
from aef_tfp.networks.batching import density_dtype
from aef_tfp.networks.convolutions import Conv2D, Conv2DTranspose
from aef_tfp.networks.equalized import EqualizedDense
from aef_tfp.networks.residual import residual_decoder, residual_encoder

__all__ = [
    "conv_decoder",
    "conv_encoder",
    "dense_decoder",
    "dense_encoder",
    "get_decoder",
    "get_encoder",
]


def conv_encoder(event_shape: Sequence[int], dtype: Any = None) -> keras.Model:
    """Builds the paper's small encoder up to its features (appendix D.1).

    Two 3x3 convolutions of stride 2 with 64 and 128 channels, ReLU after each.

    Args:
        event_shape: `(height, width, channels)`, height and width divisible by 4.
        dtype: Keras dtype policy; the global one if None.

    Returns:
        Model from `[batch, height, width, channels]` to
        `[batch, height / 4 * width / 4 * 128]`.

    Raises:
        ValueError: If a side is not divisible by 4.
    """
    height, width, channels = _image_shape_divisible_by_4(event_shape)
    options = {"padding": "same", "activation": "relu", "dtype": dtype}
    return keras.Sequential(
        [
            _input((height, width, channels), dtype),
            Conv2D(64, 3, strides=2, **options),
            Conv2D(128, 3, strides=2, **options),
            keras.layers.Flatten(dtype=dtype),
        ],
        name="conv_encoder",
    )


def conv_decoder(
    latent_dim: int,
    event_shape: Sequence[int],
    num_outputs: int = 1,
    dtype: Any = None,
) -> keras.Model:
    """Builds the paper's small decoder (appendix D.1).

    A linear layer to `[height / 4, width / 4, 128]` without activation, then two
    transposed 4x4 convolutions of stride 2 with a ReLU between them.

    Args:
        latent_dim: Number of latents d.
        event_shape: `(height, width, channels)`, height and width divisible by 4.
        num_outputs: Values per entry: 1 for the location, 2 for location and raw
            scale side by side on the channel axis.
        dtype: Keras dtype policy; the global one if None.

    Returns:
        Model from `[batch, latent_dim]` to
        `[batch, height, width, channels * num_outputs]`.

    Raises:
        ValueError: If a side is not divisible by 4.
    """
    height, width, channels = _image_shape_divisible_by_4(event_shape)
    small = (height // 4, width // 4, 128)
    options = {"strides": 2, "padding": "same"}
    # In the density's dtype: half precision has too few digits for a location.
    last = {**options, "dtype": density_dtype(dtype)}
    first = AffineSequential(
        [
            _input((latent_dim,), dtype),
            keras.layers.Dense(int(np.prod(small)), dtype=dtype),
            keras.layers.Reshape(small, dtype=dtype),
            Conv2DTranspose(64, 4, dtype=dtype, **options),
        ],
        name="affine",
    )
    return keras.Sequential(
        [
            _input((latent_dim,), dtype),
            first,
            keras.layers.ReLU(dtype=dtype),
            Conv2DTranspose(channels * num_outputs, 4, **last),
        ],
        name="conv_decoder",
    )


def dense_encoder(
    event_shape: Sequence[int], hidden_units: Sequence[int] = (256, 256), dtype=None
) -> keras.Model:
    """Builds an encoder for vectors: ReLU layers of the widths given.

    Args:
        event_shape: Any shape; the event is flattened.
        hidden_units: Widths; the last one is the number of features.
        dtype: Keras dtype policy; the global one if None.

    Returns:
        Model from `[batch, *event_shape]` to `[batch, hidden_units[-1]]`.
    """
    return keras.Sequential(
        [
            _input(tuple(event_shape), dtype),
            keras.layers.Flatten(dtype=dtype),
            *_relu_layers(hidden_units, dtype),
        ],
        name="dense_encoder",
    )


def dense_decoder(
    latent_dim: int,
    event_shape: Sequence[int],
    num_outputs: int = 1,
    hidden_units: Sequence[int] = (256, 256),
    dtype=None,
) -> keras.Model:
    """Builds a decoder to vectors: ReLU layers and a linear one.

    Args:
        latent_dim: Number of latents d.
        event_shape: Shape of one event.
        num_outputs: As in `conv_decoder`.
        hidden_units: Widths of the ReLU layers.
        dtype: Keras dtype policy; the global one if None.

    Returns:
        Model from `[batch, latent_dim]` to
        `[batch, *event_shape[:-1], event_shape[-1] * num_outputs]`.
    """
    output_shape = (*event_shape[:-1], event_shape[-1] * num_outputs)
    last = density_dtype(dtype)
    return keras.Sequential(
        [
            _input((latent_dim,), dtype),
            *_relu_layers(hidden_units, dtype),
            keras.layers.Dense(int(np.prod(output_shape)), dtype=last),
            keras.layers.Reshape(output_shape, dtype=last),
        ],
        name="dense_decoder",
    )


def get_encoder(
    identifier: Any,
    event_shape: Sequence[int],
    latent_dim: int,
    num_outputs: int = 2,
    dtype: Any = None,
) -> keras.layers.Layer:
    """Returns the encoder network that an identifier means.

    Args:
        identifier: A Keras layer or model, which is returned as it is; `"conv"`,
            `"dense"`, `"residual"`; or None for `"conv"` on images and `"dense"` on
            vectors.
        event_shape: Shape of one event.
        latent_dim: Number of latents d; the residual network ends in them.
        num_outputs: 2 if latents have a location and a scale, 1 without a scale.
        dtype: Keras dtype policy of a network built here.

    Raises:
        ValueError: If the identifier is unknown.
    """
    if isinstance(identifier, keras.layers.Layer):
        return identifier
    kind = _network_kind(identifier, event_shape, "encoder")
    if kind == "residual":
        return residual_encoder(
            event_shape, latent_dim, num_outputs=num_outputs, dtype=dtype
        )
    if kind == "conv":
        return conv_encoder(event_shape, dtype=dtype)
    return dense_encoder(event_shape, dtype=dtype)


def get_decoder(
    identifier: Any,
    latent_dim: int,
    event_shape: Sequence[int],
    num_outputs: int = 1,
    dtype: Any = None,
) -> keras.layers.Layer:
    """Returns the decoder network that an identifier means, as `get_encoder` does."""
    if isinstance(identifier, keras.layers.Layer):
        return identifier
    builders: dict[str, Callable[..., keras.Model]] = {
        "conv": conv_decoder,
        "dense": dense_decoder,
        "residual": residual_decoder,
    }
    build = builders[_network_kind(identifier, event_shape, "decoder")]
    return build(latent_dim, event_shape, num_outputs, dtype=dtype)


def _network_kind(identifier: Any, event_shape: Sequence[int], role: str) -> str:
    if identifier is None:
        return "conv" if len(event_shape) == 3 else "dense"
    if identifier not in ("conv", "dense", "residual"):
        raise ValueError(
            f"{role} must be 'conv', 'dense', 'residual', None or a Keras layer or "
            f"model, got {identifier!r}."
        )
    return identifier


def _input(shape: tuple[int, ...], dtype: Any) -> keras.KerasTensor:
    # An input without a dtype is float32, and rounds what a float64 network is given.
    return keras.Input(shape, dtype=density_dtype(dtype))


def _relu_layers(hidden_units, dtype) -> list[keras.layers.Layer]:
    return [
        EqualizedDense(units, activation="relu", dtype=dtype) for units in hidden_units
    ]


def _image_shape_divisible_by_4(event_shape) -> tuple[int, int, int]:
    if len(event_shape) != 3:
        raise ValueError(
            "The small convolutional networks need events of shape (height, width, "
            f"channels), got {tuple(event_shape)}; use 'dense' or a Keras model."
        )
    height, width, channels = event_shape
    if height % 4 or width % 4:
        raise ValueError(
            "The small convolutional networks need a height and width divisible by 4, "
            f"got {height} x {width}; resize or pad the images (--image-size for a "
            "folder), or pass your own encoder and decoder."
        )
    return height, width, channels
