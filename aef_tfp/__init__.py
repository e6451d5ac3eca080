"""AutoEncoders within Flows (AEF) in Keras 3 and TensorFlow Probability.

An AEF puts a Keras encoder and decoder inside a TFP bijector chain, with a learned flow
over the core and a learned prior, so that an autoencoder is trained by maximum
likelihood instead of the ELBO (Silvestri, Roos and Ambrogioni, ICLR 2023).

Submodules, from the mathematics up: `bijectors`, `networks`, `flows`, `engine`,
`inference`, `models`, `data`, `metrics`, `export`, `callbacks`, `runs`. They are
imported when they are first used: TensorFlow takes seconds to start. `load` gives the
model of a run or of a file.
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
    from aef_tfp.runs.loading import load

__all__ = [
    "IWAE",
    "VAE",
    "Autoencoder",
    "ExpandedAEF",
    "PartitionedAEF",
    "PixelMAF",
    "load",
    "use_memory_pool",
]

__version__ = "0.1.0"

_SUBMODULES = (
    "bijectors",
    "callbacks",
    "data",
    "distribution",
    "engine",
    "export",
    "flows",
    "inference",
    "metrics",
    "models",
    "networks",
    "pictures",
    "runs",
    "terminal",
)

check_backend()


def __getattr__(name: str) -> Any:
    """Imports a submodule, a model or `load` on its first use."""
    if name in _SUBMODULES:
        with collector_paused():
            return importlib.import_module(f"aef_tfp.{name}")
    if name in __all__:
        home = "aef_tfp.runs.loading" if name == "load" else "aef_tfp.models"
        with collector_paused():
            module = importlib.import_module(home)
        return getattr(module, name)
    raise AttributeError(f"module 'aef_tfp' has no attribute {name!r}")
