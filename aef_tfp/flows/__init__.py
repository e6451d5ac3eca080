"""Flows: Keras layers that own conditioners and show a stateless `.bijector`.

Every flow maps base to data in its bijector's `forward` direction, and owns all the
weights that the bijector reads. Data-dependent initialization goes through the stack in
either direction, as `bijector.forward` and `bijector.inverse` do.
"""

from aef_tfp.flows.autoregressive import IAF, MAF, Autoregressive, get
from aef_tfp.flows.base import Flow, adapt_forward, adapt_inverse
from aef_tfp.flows.compositions import Inverted, Stack
from aef_tfp.flows.elementary import ActNorm, Identity, PixelSquash, Reverse

__all__ = [
    "IAF",
    "MAF",
    "ActNorm",
    "Autoregressive",
    "Flow",
    "Identity",
    "Inverted",
    "PixelSquash",
    "Reverse",
    "Stack",
    "adapt_forward",
    "adapt_inverse",
    "get",
]
