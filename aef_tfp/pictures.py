"""Pictures as arrays and PNG files."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["image_grid", "save_png"]


def image_grid(images: Any, num_columns: int, min_side: int = 28) -> np.ndarray:
    """Lays images out in a grid with thin grey lines between them.

    Args:
        images: `[n, H, W, C]` floats in [0, 1]; C is 1 or 3.
        num_columns: Images per row, at least 1; the last row is filled with grey.
        min_side: Smaller images are enlarged by a whole factor until their longer side
            has at least this many pixels.

    Returns:
        One uint8 image `[height, width, C]`.

    Raises:
        ValueError: If `images` has another shape.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            "image_grid takes images of shape [n, height, width, 1 or 3], got "
            f"{list(images.shape)}."
        )
    factor = -(-min_side // max(images.shape[1:3]))
    pixels = np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    pixels = np.pad(pixels, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=128)
    missing = -len(pixels) % num_columns
    pixels = np.pad(pixels, [(0, missing), (0, 0), (0, 0), (0, 0)], constant_values=128)
    _, height, width, channels = pixels.shape
    grid = pixels.reshape(-1, num_columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(-1, num_columns * width, channels)
    return np.pad(grid, [(1, 0), (1, 0), (0, 0)], constant_values=128)


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes a uint8 image `[height, width, 1 or 3]` as a PNG file."""
    path.write_bytes(tf.io.encode_png(image).numpy())
