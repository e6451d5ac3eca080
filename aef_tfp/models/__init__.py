"""Generative models: autoencoders within flows, and their baselines."""

from aef_tfp.models.bits import bits_per_dim
from aef_tfp.models.expanded import ExpandedAEF
from aef_tfp.models.generative import GenerativeModel
from aef_tfp.models.partitioned import PartitionedAEF
from aef_tfp.models.variational import IWAE, VAE

__all__ = [
    "IWAE",
    "VAE",
    "ExpandedAEF",
    "GenerativeModel",
    "PartitionedAEF",
    "bits_per_dim",
]
