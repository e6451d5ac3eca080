"""Generative models: autoencoders within flows, and their baselines."""

from aef_tfp.inference import ImportanceEstimate
from aef_tfp.models.autoencoder import Autoencoder
from aef_tfp.models.bits import bits_per_dim
from aef_tfp.models.chain import Chain
from aef_tfp.models.event_model import EventModel
from aef_tfp.models.expanded import ExpandedAEF
from aef_tfp.models.likelihood import Likelihood
from aef_tfp.models.partitioned import PartitionedAEF
from aef_tfp.models.pixel_maf import PixelMAF
from aef_tfp.models.variational import IWAE, VAE

__all__ = [
    "IWAE",
    "VAE",
    "Autoencoder",
    "Chain",
    "EventModel",
    "ExpandedAEF",
    "ImportanceEstimate",
    "Likelihood",
    "PartitionedAEF",
    "PixelMAF",
    "bits_per_dim",
]
