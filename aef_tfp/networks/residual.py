"""The residual bottleneck encoder and decoder of the paper's colour images."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from aef_tfp.networks.activations import gelu
from aef_tfp.networks.batching import density_dtype
from aef_tfp.networks.convolutions import Conv2D
from aef_tfp.networks.gaussian import positive_scale
from aef_tfp.networks.rematerialization import recomputed

__all__ = [
    "BottleneckBlock",
    "Stage",
    "residual_decoder",
    "residual_encoder",
    "residual_stages",
]

# What remains of a side after halving is pooled to 1 in one step.
_LARGEST_LAST_FACTOR = 7


@dataclasses.dataclass(frozen=True)
class Stage:
    """Residual blocks at one side of the image, and the way to the next smaller one.

    The encoder runs through its stages in order: `num_blocks` blocks at `side`, then,
    where `factor` is above 1, one more block and average pooling by `factor`. The
    decoder runs through the same stages backwards, with nearest-neighbour upsampling
    and a block in place of a block and pooling.

    Args:
        side: Height and width of the feature maps.
        num_blocks: Blocks before the pooling.
        factor: By how much the side shrinks after this stage; 1 in the last one.
    """

    side: int
    num_blocks: int
    factor: int


def residual_stages(side: int, num_blocks: int = 4) -> tuple[Stage, ...]:
    """Returns the paper's stages for a side: 32, 16, 8, 4, 1 for images of 32 x 32.

    The side is halved down to 4 or an odd number of at most 7, and from there goes to 1
    in one step: 28, 14, 7, 1.

    Args:
        side: Height and width of the images: a power of two, or one times 3, 5 or 7;
            at least 2.
        num_blocks: Blocks at each side.

    Raises:
        ValueError: If the side has another odd factor, or is 1.
    """
    stages = []
    rest = side
    while rest > 4 and rest % 2 == 0:
        stages.append(Stage(rest, num_blocks, 2))
        rest //= 2
    if side < 2 or rest > _LARGEST_LAST_FACTOR:
        raise ValueError(
            "The residual networks need square images whose side, of at least 2, is a "
            "power of two, or one times 3, 5 or 7, "
            f"got a side of {side}; resize or crop the images (--image-size), or pass "
            "your own encoder and decoder."
        )
    return (*stages, Stage(rest, num_blocks, rest), Stage(1, num_blocks, 1))


@keras.saving.register_keras_serializable(package="aef_tfp")
class BottleneckBlock(keras.layers.Layer):
    """Residual block with a bottleneck: x + f(x).

    f is GELU, 1x1, GELU, 3x3, GELU, 3x3, GELU, 1x1 (appendix D.1), with as many
    channels inside as `bottleneck` says.

    Args:
        channels: Channels of the result.
        bottleneck: Channels inside.
        kernel_size: Of the two inner convolutions; 1 where the side is 1 or 2.
        output_scale: Factor on the initial weights of the last convolution.
        residual: Whether x is added.
        **kwargs: As in every Keras layer.
    """

    def __init__(
        self,
        channels: int,
        bottleneck: int,
        kernel_size: int = 3,
        output_scale: float = 1.0,
        residual: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.bottleneck = bottleneck
        self.kernel_size = kernel_size
        self.output_scale = output_scale
        self.residual = residual

        def convolution(channels, kernel_size, name, scale=1.0):
            return Conv2D(
                channels,
                kernel_size,
                padding="same",
                kernel_initializer=_uniform_initializer(scale),
                name=name,
                dtype=self.dtype_policy,
            )

        self.convolutions = [
            convolution(bottleneck, 1, "reduce"),
            convolution(bottleneck, kernel_size, "first"),
            convolution(bottleneck, kernel_size, "second"),
            convolution(channels, 1, "expand", output_scale),
        ]

    def build(self, input_shape):
        """Creates the weights for `[batch, side, side, channels]`."""
        for layer in self.convolutions:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, x):
        """Maps `[batch, side, side, inputs]` to `[batch, side, side, channels]`."""
        y = recomputed(self._inner, x)
        return x + y if self.residual else y

    def _inner(self, y):
        for layer in self.convolutions:
            y = layer(gelu(y))
        return y

    def compute_output_shape(self, input_shape):
        """Returns the input's shape with `channels` channels."""
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "bottleneck": self.bottleneck,
            "kernel_size": self.kernel_size,
            "output_scale": self.output_scale,
            "residual": self.residual,
        }


@keras.saving.register_keras_serializable(package="aef_tfp")
class ChannelAffine(keras.layers.Layer):
    """A gain and a bias per channel: x -> gain * x + bias."""

    def build(self, input_shape):
        """Creates gain (ones) and bias (zeros), `[channels]` each."""
        shape = input_shape[-1:]
        self.gain = self.add_weight(name="gain", shape=shape, initializer="ones")
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, x):
        """Maps `[..., channels]` to the same shape."""
        return x * self.gain + self.bias

    def compute_output_shape(self, input_shape):
        """Returns the input's shape."""
        return input_shape

    def get_config(self):
        """Returns the arguments of every Keras layer."""
        # Keras's own version refuses a dtype that is a policy object.
        return super().get_config()


def residual_encoder(
    event_shape: Sequence[int],
    latent_dim: int,
    width: int | None = None,
    stages: Sequence[Stage] | None = None,
    num_outputs: int = 2,
    dtype: Any = None,
) -> keras.Model:
    """Builds the paper's residual bottleneck encoder (appendix D.1).

    A 3x3 convolution to `width` channels, the blocks of all stages, and a last block
    without a residual that returns location and raw scale.

    Args:
        event_shape: `(side, side, channels)`.
        latent_dim: Number of latents d.
        width: Channels of the feature maps, a quarter of them in the bottlenecks; d if
            None, as in the paper.
        stages: From the largest side to 1; `residual_stages(side)` if None.
        num_outputs: 2 for location and scale, 1 for the location alone.
        dtype: Keras dtype policy; the global one if None.

    Returns:
        Model from `[batch, side, side, channels]` to `[batch, latent_dim]`, as many
        times as `num_outputs` says; the scale is softplus(raw) + 1e-5.

    Raises:
        ValueError: If the images are not square, or the stages do not fit them.
    """
    side, channels = _square(event_shape)
    stages = _checked_stages(stages, side)
    width = latent_dim if width is None else width
    block = _block_maker(width, stages, dtype)
    layers = keras.layers
    x = inputs = _input((side, side, channels), dtype)
    x = layers.Conv2D(width, 3, padding="same", name="first", dtype=dtype)(x)
    for stage in stages[:-1]:
        for _ in range(stage.num_blocks):
            x = block(stage.side)(x)
        x = block(stage.side)(x)
        x = layers.AveragePooling2D(stage.factor, dtype=dtype)(x)
    for _ in range(stages[-1].num_blocks - 1):
        x = block(1)(x)
    x = block(1, num_outputs * latent_dim, residual=False)(x)
    x = layers.Flatten(dtype=density_dtype(dtype))(x)
    if num_outputs == 1:
        return keras.Model(inputs, x, name="residual_encoder")
    outputs = GaussianSplit(name="split", dtype=density_dtype(dtype))(x)
    return keras.Model(inputs, outputs, name="residual_encoder")


def residual_decoder(
    latent_dim: int,
    event_shape: Sequence[int],
    num_outputs: int = 1,
    width: int | None = None,
    stages: Sequence[Stage] | None = None,
    dtype: Any = None,
) -> keras.Model:
    """Builds the paper's residual bottleneck decoder (appendix D.1).

    The stages of `residual_encoder` backwards: blocks at side 1, then for each larger
    side nearest-neighbour upsampling, a block, and the stage's blocks; at the end a
    gain and a bias per channel and a 1x1 convolution.

    Args:
        latent_dim: Number of latents d.
        event_shape: `(side, side, channels)`.
        num_outputs: Values per entry: 1 for the location, 2 for location and raw scale
            side by side on the channel axis.
        width: As in `residual_encoder`; where it is not d, a linear layer comes first.
        stages: As in `residual_encoder`.
        dtype: Keras dtype policy; the global one if None.

    Returns:
        Model from `[batch, latent_dim]` to
        `[batch, side, side, channels * num_outputs]`.

    Raises:
        ValueError: As in `residual_encoder`.
    """
    side, channels = _square(event_shape)
    stages = _checked_stages(stages, side)
    width = latent_dim if width is None else width
    block = _block_maker(width, stages, dtype)
    layers = keras.layers
    x = inputs = _input((latent_dim,), dtype)
    if width != latent_dim:
        x = layers.Dense(width, name="first", dtype=dtype)(x)
    x = layers.Reshape((1, 1, width), dtype=dtype)(x)
    for _ in range(stages[-1].num_blocks):
        x = block(1)(x)
    for stage in reversed(stages[:-1]):
        x = layers.UpSampling2D(stage.factor, dtype=dtype)(x)
        for _ in range(1 + stage.num_blocks):
            x = block(stage.side)(x)
    x = ChannelAffine(name="affine", dtype=dtype)(x)
    # In the density's dtype: half precision has too few digits for a location.
    x = Conv2D(channels * num_outputs, 1, name="last", dtype=density_dtype(dtype))(x)
    return keras.Model(inputs, x, name="residual_decoder")


@keras.saving.register_keras_serializable(package="aef_tfp")
class GaussianSplit(keras.layers.Layer):
    """Splits `[batch, 2 d]` into a location and the scale softplus(raw) + 1e-5."""

    def call(self, x):
        """Maps `[batch, 2 d]` to two tensors `[batch, d]`."""
        loc, raw_scale = keras.ops.split(x, 2, axis=-1)
        return loc, positive_scale(raw_scale)

    def compute_output_shape(self, input_shape):
        """Returns the shapes of location and scale, half as wide each."""
        shape = (*input_shape[:-1], input_shape[-1] // 2)
        return shape, shape

    def get_config(self):
        """Returns the arguments of every Keras layer."""
        return super().get_config()


def _block_maker(width: int, stages: Sequence[Stage], dtype: Any):
    """A function that makes the next block of a network."""
    # One more block where the side changes.
    num_blocks = sum(stage.num_blocks + 1 for stage in stages) - 1
    # Without it the sum over so many blocks would grow with their number.
    output_scale = float(np.sqrt(1.0 / num_blocks))
    numbers = itertools.count()

    def block(side: int, channels: int = width, residual: bool = True):
        return BottleneckBlock(
            channels,
            max(1, width // 4),
            kernel_size=3 if side > 2 else 1,
            output_scale=output_scale,
            residual=residual,
            name=f"block_{next(numbers)}_side_{side}",
            dtype=dtype,
        )

    return block


def _checked_stages(stages: Sequence[Stage] | None, side: int) -> Sequence[Stage]:
    if stages is None:
        return residual_stages(side)
    expected = side
    for stage in stages:
        if stage.side != expected or stage.num_blocks < 1 or expected % stage.factor:
            raise ValueError(
                f"The stages must lead from side {side} to 1, each side the one before "
                f"divided by its factor, with at least one block; got {stage} where "
                f"the side is {expected}."
            )
        expected //= stage.factor
    if not stages or stages[-1] != dataclasses.replace(stages[-1], side=1, factor=1):
        raise ValueError(
            f"The last stage must have side 1 and factor 1, got {list(stages)[-1:]}."
        )
    return stages


def _square(event_shape: Sequence[int]) -> tuple[int, int]:
    if len(event_shape) != 3 or event_shape[0] != event_shape[1]:
        raise ValueError(
            "The residual networks need square images (side, side, channels), got "
            f"{tuple(event_shape)}; crop or resize the images, or use 'conv', 'dense' "
            "or a Keras model."
        )
    return event_shape[0], event_shape[2]


def _uniform_initializer(scale: float = 1.0) -> keras.Initializer:
    # Uniform on +- scale / sqrt(fan in): where the paper's code starts.
    return keras.initializers.VarianceScaling(scale**2 / 3, "fan_in", "uniform")


def _input(shape: tuple[int, ...], dtype: Any) -> keras.KerasTensor:
    return keras.Input(shape, dtype=density_dtype(dtype))
