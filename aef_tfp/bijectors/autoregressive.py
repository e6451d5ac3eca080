"""The masked autoregressive bijector with an incremental sequential direction."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors.reuse import Live, OncePerGraph

__all__ = [
    "IDENTITY_PARAMETERS",
    "AutoregressiveConditioner",
    "MaskedAutoregressive",
    "affine_inverse",
]

_SCALE_FLOOR = 1e-3

IDENTITY_PARAMETERS = (0.0, float(np.log(np.expm1(1.0 - _SCALE_FLOOR))))
"""Parameters for which `affine_inverse` is the identity."""


class AutoregressiveConditioner(Protocol):
    """What `MaskedAutoregressive` asks of its network; `networks.MADE` is the usual."""

    def __call__(self, x: Any) -> Any:
        """Maps `[..., d]` to parameters `[..., d, p]`; entry i sees `x[..., :i]`."""

    def solve(self, base: Any, transform: Callable[[Any, Any], Any]) -> Any:
        """Solves `x_i = transform(base_i, parameters_i(x))` for all i in turn.

        The transform is hashable, and equals that of every bijector like this one.
        """


def affine_inverse(parameters) -> tfb.Bijector:
    """Scalar bijector whose *inverse* is `y -> scale * y + shift`.

    Args:
        parameters: `[..., 2]`, the shift and the raw scale;
            `scale = softplus(raw) + 1e-3`.

    Returns:
        A bijector over scalars of batch shape `[...]`.

    Raises:
        ValueError: If there are more or fewer than two parameters.
    """
    parameters = tf.convert_to_tensor(parameters)
    if not parameters.shape[-1:].is_compatible_with([2]):
        raise ValueError(
            "affine_inverse takes parameters [..., 2], shift and raw scale of each "
            f"entry, got the shape {parameters.shape}; let the conditioner return two, "
            "or give a scalar_bijector of those that it has."
        )
    shift, raw_scale = tf.unstack(parameters, num=2, axis=-1)
    scale = tf.nn.softplus(raw_scale) + _SCALE_FLOOR
    return tfb.Invert(tfb.Chain([tfb.Shift(shift), tfb.Scale(scale)]))


class MaskedAutoregressive(Live, tfb.MaskedAutoregressiveFlow):
    """Autoregressive bijector that samples in about one network pass.

    The parallel direction is TFP's `MaskedAutoregressiveFlow`, unchanged: with the
    conditioner's parameters p_i(y_1 ... y_{i-1}) and a scalar bijector B(p),

        inverse: x_i = B(p_i(y)).inverse(y_i)     one network pass for all i
        forward: y_i = B(p_i(y)).forward(x_i)     sequential in i

    TFP's sequential direction evaluates the whole network `d` times. Here it asks the
    conditioner to solve the recursion, and a MADE does so incrementally: step i
    computes only what output i needs anew, so that `forward` costs about as many
    multiplications as `inverse`. The numbers are those of the plain loop, up to 1 /
    epsilon of the dtype (8e6 in single precision): entries are held to that, so that
    no sample overflows.

    Args:
        conditioner: Network with `__call__` and `solve`, see
            `AutoregressiveConditioner`.
        scalar_bijector: Callable from parameters `[..., p]` to a bijector over scalars.
        validate_args: As in every TFP bijector.
        name: Name of the operations.

    Example:
        >>> made = aef_tfp.networks.MADE(event_size=3)
        >>> flow = MaskedAutoregressive(made)
        >>> samples = flow.forward(tf.random.normal([16, 3]))

    References: Germain et al., MADE (arXiv:1502.03509); Papamakarios et al., MAF
    (arXiv:1705.07057).
    """

    def __init__(
        self,
        conditioner: AutoregressiveConditioner,
        scalar_bijector: Callable[[Any], tfb.Bijector] = affine_inverse,
        validate_args: bool = False,
        name: str = "masked_autoregressive",
    ):
        self._conditioner = conditioner
        self._scalar_bijector = scalar_bijector
        parameters_of = OncePerGraph(conditioner)
        super().__init__(
            bijector_fn=lambda y: scalar_bijector(parameters_of(y)),
            validate_args=validate_args,
            name=name,
        )

    def copy(self, **overrides):
        """Returns a bijector of the same arguments, but for those given."""
        # TFP takes those of its own flow.
        own = {
            "conditioner": self._conditioner,
            "scalar_bijector": self._scalar_bijector,
            "validate_args": self.validate_args,
            "name": self.name,
        }
        return MaskedAutoregressive(**{**own, **overrides})

    def _forward(self, x):
        return self._conditioner.solve(x, _HeldForward(self._scalar_bijector))


@dataclasses.dataclass(frozen=True)
class _HeldForward:
    """The scalar bijector's forward, held to what a dtype resolves.

    Small scales multiply along the recursion and from layer to layer: samples of
    trained flows overflow, and inf - inf is NaN. Entries beyond 1 / epsilon have no
    digit left that the rest of a model could resolve.
    """

    scalar_bijector: Callable[[Any], tfb.Bijector]

    def __call__(self, x, parameters):
        limit = 1.0 / np.finfo(x.dtype.as_numpy_dtype).eps
        y = self.scalar_bijector(parameters).forward(x)
        return tf.clip_by_value(y, -limit, limit)
