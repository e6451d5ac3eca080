"""AutoEncoders within Flows (AEF) in Keras 3 and TensorFlow Probability.

An AEF puts a Keras encoder and decoder inside a TFP bijector chain, with a learned flow
over the core and a learned prior, so that an autoencoder is trained by maximum
likelihood instead of the ELBO (Silvestri, Roos and Ambrogioni, ICLR 2023).

Submodules, from the mathematics up: `bijectors`, `networks`, `flows`, `models`,
`inference`, `data`, `metrics`, `export`, `callbacks`, `config`, `evaluation`,
`training`, `paper`. They are imported when they are first used: TensorFlow takes
seconds to start, and `aef_tfp.config` does without.
"""

import importlib
from typing import TYPE_CHECKING, Any

from aef_tfp.backend import check_backend
from aef_tfp.memory import collector_paused, use_memory_pool

if TYPE_CHECKING:
    from aef_tfp.models import (
        IWAE,
        VAE,
        Autoencoder,
        ExpandedAEF,
        PartitionedAEF,
        PixelMAF,
    )

__all__ = ["IWAE", "VAE", "Autoencoder", "ExpandedAEF", "PartitionedAEF", "PixelMAF"]

__version__ = "0.1.0"

_SUBMODULES = (
    "bijectors",
    "callbacks",
    "config",
    "data",
    "evaluation",
    "export",
    "flows",
    "inference",
    "metrics",
    "models",
    "networks",
    "paper",
    "pictures",
    "terminal",
    "training",
)

check_backend()

# Here, since it comes before TensorFlow starts or not at all.
use_memory_pool()


def __getattr__(name: str) -> Any:
    """Imports a submodule or a model on its first use."""
    if name in _SUBMODULES:
        with collector_paused():
            return importlib.import_module(f"aef_tfp.{name}")
    if name in __all__:
        with collector_paused():
            models = importlib.import_module("aef_tfp.models")
        return getattr(models, name)
    raise AttributeError(f"module 'aef_tfp' has no attribute {name!r}")
