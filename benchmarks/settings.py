"""What both sides of the comparison build, and how much of it they do."""

import dataclasses

import numpy as np

__all__ = [
    "CLIP_NORM",
    "EVALUATED",
    "FIT_STEPS",
    "NUM_IMPORTANCE",
    "NUM_SAMPLES",
    "PIPELINE_BATCHES",
    "PRODUCT_OPERATIONS",
    "PRODUCT_SIZE",
    "SETTINGS",
    "STEPS",
    "Setting",
    "random_images",
]

CLIP_NORM = 200.0

# Steps per timed call: the trainer's own default of `steps_per_execution`.
STEPS = 10

# The matrix product whose rate is the machine's limit.
PRODUCT_SIZE = 2048
PRODUCT_OPERATIONS = 2 * PRODUCT_SIZE**3

NUM_SAMPLES = 256
EVALUATED, NUM_IMPORTANCE = 500, 128
PIPELINE_BATCHES = 400

# As many as the trainer makes between two validations of MNIST.
FIT_STEPS = 500


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model of the paper, by its parts."""

    model: str
    latent_dim: int
    networks: str = "conv"
    image_shape: tuple[int, int, int] = (28, 28, 1)
    batch_size: int = 128
    logit_lambda: float = 1e-6
    learning_rate: float = 1e-3


_RESIDUAL = {
    "networks": "residual",
    "image_shape": (32, 32, 3),
    "batch_size": 64,
    "logit_lambda": 0.05,
    "learning_rate": 1e-4,
}

SETTINGS = {
    "aef-2": Setting("aef-linear", 2),
    "aef-32": Setting("aef-linear", 32),
    "aef-128": Setting("aef-linear", 128),
    "aef-256": Setting("aef-linear", 256),
    "vae-2": Setting("vae", 2),
    "vae-32": Setting("vae", 32),
    "aef-residual-64": Setting("aef-linear", 64, **_RESIDUAL),
    "vae-residual-64": Setting("vae", 64, **_RESIDUAL),
}


def random_images(setting: Setting, count: int = 1000) -> np.ndarray:
    """Images of noise, `[count, H, W, C]` uint8: the time does not depend on them."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, *setting.image_shape), dtype=np.uint8)
