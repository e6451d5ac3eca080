"""Generative models: autoencoders within flows, and their baselines."""

from aef_tfp.models.autoencoder import Autoencoder
from aef_tfp.models.autoencoding import AutoencodingModel
from aef_tfp.models.bits import bits_per_dim
from aef_tfp.models.event_model import EventModel
from aef_tfp.models.exact import ExactModel
from aef_tfp.models.expanded import ExpandedAEF
from aef_tfp.models.generative import GenerativeModel
from aef_tfp.models.importance import ImportanceEstimate
from aef_tfp.models.partitioned import PartitionedAEF
from aef_tfp.models.pixel_maf import PixelMAF
from aef_tfp.models.variational import IWAE, VAE, VariationalModel
from aef_tfp.models.whole import WholeEventModel

__all__ = [
    "IWAE",
    "VAE",
    "Autoencoder",
    "AutoencodingModel",
    "EventModel",
    "ExactModel",
    "ExpandedAEF",
    "GenerativeModel",
    "ImportanceEstimate",
    "PartitionedAEF",
    "PixelMAF",
    "VariationalModel",
    "WholeEventModel",
    "bits_per_dim",
]
