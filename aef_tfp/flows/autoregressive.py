"""Autoregressive flows over vectors, and the names that stand for them."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors import IDENTITY_PARAMETERS, MaskedAutoregressive
from aef_tfp.flows.base import Flow, build_for, checked_flow, naming
from aef_tfp.flows.checks import check_flow_of_user, check_takes_vectors, takes
from aef_tfp.flows.compositions import Inverted, Stack
from aef_tfp.flows.elementary import ActNorm, Identity, Reverse
from aef_tfp.networks import MADE
from aef_tfp.networks.counts import checked_count
from aef_tfp.networks.expansion import Expandable

__all__ = ["IAF", "MAF", "Autoregressive", "get"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class Autoregressive(Flow):
    """One masked autoregressive affine layer with a MADE conditioner.

    It starts as the identity.

    Args:
        event_size: Number of entries d.
        hidden_units: Width of the MADE.
        num_blocks: Number of its residual blocks.
        **kwargs: As in every Keras layer.
    """

    def __init__(
        self,
        event_size: int,
        hidden_units: int = 256,
        num_blocks: int = 2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.made = MADE(
            event_size,
            hidden_units=hidden_units,
            num_blocks=num_blocks,
            initial_parameters=IDENTITY_PARAMETERS,
            dtype=self.dtype_policy,
            name="made",
        )
        with naming(self):
            self.made.build((None, event_size))
        self.built = True

    @property
    def event_size(self) -> int:
        """Number of entries d."""
        return self.made.event_size

    @property
    def bijector(self) -> MaskedAutoregressive:
        """Parallel in `inverse`, incremental in `forward`."""
        return MaskedAutoregressive(self.made)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "hidden_units": self.made.hidden_units,
            "num_blocks": self.made.num_blocks,
        }


@keras.saving.register_keras_serializable(package="aef_tfp")
class MAF(Expandable, Flow):
    """Masked autoregressive flow: density in parallel, sampling incremental.

    `num_layers` times (reversed order, MADE, ActNorm), as in appendix D.2: K = 4 and
    N = 256 there. `inverse` costs `num_layers` network passes, `forward` about as many
    multiplications in `event_size` sequential steps per layer.

    It starts as the identity, but for the order of the entries, and `adapt` scales and
    shifts them: stacked layers of random unbounded scales would blow up on outliers.

    Args:
        event_size: Number of entries d.
        num_layers: Number of MADE layers, K.
        hidden_units: Width of each MADE, N.
        num_blocks: Residual blocks of each MADE.
        **kwargs: As in every Keras layer.

    Raises:
        ValueError: If a number is no integer of at least 1 (`num_layers` and
            `num_blocks`: 0).

    Example:
        >>> flow = MAF(event_size=8)
        >>> flow.bijector.inverse(tf.zeros([16, 8])).shape
        TensorShape([16, 8])

    Reference: Papamakarios et al. (arXiv:1705.07057).
    """

    def __init__(
        self,
        event_size: int,
        num_layers: int = 4,
        hidden_units: int = 256,
        num_blocks: int = 2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.event_size = checked_count("event_size", event_size)
        self.num_layers = checked_count("num_layers", num_layers, least=0)
        self.hidden_units = checked_count("hidden_units", hidden_units)
        self.num_blocks = checked_count("num_blocks", num_blocks, least=0)
        flows: list[Flow] = []
        options = {"dtype": self.dtype_policy}
        with naming(self):
            for i in range(num_layers):
                flows += [
                    Reverse(event_size, name=f"reverse_{i}", **options),
                    Autoregressive(
                        event_size,
                        hidden_units,
                        num_blocks,
                        name=f"autoregressive_{i}",
                        **options,
                    ),
                    ActNorm(event_size, name=f"act_norm_{i}", **options),
                ]
            self.stack = Stack(flows, name="stack", **options)
        self.built = True

    def build(self, input_shape):
        """Builds the layers for inputs of the shape `[batch, event_size]`."""
        build_for(self.stack, input_shape)

    @property
    def _parts(self):
        return self.stack.flows

    @property
    def bijector(self) -> tfb.Bijector:
        """Chain of the layers' bijectors."""
        return self.stack.bijector

    def adapt_inverse(self, y: tf.Tensor) -> tf.Tensor:
        """Initializes the ActNorms from data to base; returns `inverse(y)`."""
        return self.stack.adapt_inverse(y)

    def adapt_forward(self, x: tf.Tensor) -> tf.Tensor:
        """Initializes the ActNorms from base to data; returns `forward(x)`."""
        return self.stack.adapt_forward(x)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "num_layers": self.num_layers,
            "hidden_units": self.hidden_units,
            "num_blocks": self.num_blocks,
        }


def IAF(  # noqa: N802 - named as the paper does
    event_size: int, *, dtype: Any = None, name: str | None = None, **kwargs
) -> Inverted:
    """Inverse autoregressive flow, `Inverted(MAF(...))`: sampling in parallel.

    Args:
        event_size: Number of entries d.
        dtype: Keras dtype policy of both layers.
        name: Name of both layers; a new one that begins with "iaf" if None.
        **kwargs: As in `MAF`.

    Reference: Kingma et al. (arXiv:1606.04934).
    """
    if name is None:
        # Counted as Keras counts its own: iaf, iaf_1, ...
        number = keras.backend.get_uid("iaf") - 1
        name = f"iaf_{number}" if number else "iaf"
    maf = MAF(event_size, dtype=dtype, name=name, **kwargs)
    return Inverted(maf, dtype=dtype, name=name)


def get(
    identifier: Any, event_size: int, dtype: Any = None, name: str | None = None
) -> Any:
    """Returns the flow over vectors that an identifier means.

    Args:
        identifier: `"maf"` or `"iaf"` with the paper's sizes, `"none"` or None for the
            identity, or a Keras layer with a `.bijector`, returned as it is.
        event_size: Number of entries of the vectors.
        dtype: Keras dtype policy of a flow built here.
        name: Name of a flow built here.

    Raises:
        ValueError: If the identifier is none of these, or a flow of another dtype or
            size, or one that does not map all real numbers to such.
    """
    kind = identifier if isinstance(identifier, str) else None
    if identifier is None or kind == "none":
        return Identity(dtype=dtype, name=name)
    if kind == "maf":
        return MAF(event_size, dtype=dtype, name=name)
    if kind == "iaf":
        return IAF(event_size, dtype=dtype, name=name)
    flow = checked_flow(identifier)
    if type(flow).build is not keras.layers.Layer.build:
        # Its weights may come only then.
        build_for(flow, (None, event_size))
    check_takes_vectors(flow, event_size)
    wanted = None if dtype is None else keras.dtype_policies.get(dtype).variable_dtype
    if wanted not in (None, flow.variable_dtype) and not takes(
        flow, event_size, wanted
    ):
        raise ValueError(
            f"The flow {flow.name!r} is of {flow.variable_dtype}, and the model's "
            f"densities are of {wanted}; build it with dtype={wanted!r}."
        )
    check_flow_of_user(flow, event_size)
    return flow
