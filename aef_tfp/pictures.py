"""Pictures as arrays and PNG files."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from aef_tfp.files import replace_file

__all__ = ["image_grid", "manifold_grid", "save_png", "scatter"]

# Ten classes that differ also in brightness; more are told apart less well.
_COLORS = np.array(
    [
        (31, 119, 180),
        (255, 127, 14),
        (44, 160, 44),
        (214, 39, 40),
        (148, 103, 189),
        (140, 86, 75),
        (227, 119, 194),
        (90, 90, 90),
        (188, 189, 34),
        (23, 190, 207),
    ],
    np.uint8,
)


def image_grid(
    images: Any, num_columns: int, min_side: int = 28, gap: int = 1
) -> np.ndarray:
    """Lays images out in a grid with thin grey lines between them.

    Args:
        images: `[n, H, W, C]` floats in [0, 1]; C is 1 or 3. NaN becomes black.
        num_columns: Images per row, at least 1; the last row is filled with grey.
        min_side: Smaller images are enlarged by a whole factor until their longer side
            has at least this many pixels.
        gap: Width of the lines; 0 draws none.

    Returns:
        One uint8 image `[height, width, C]`.

    Raises:
        ValueError: If `images` has another shape, or holds integers.
    """
    images = np.asarray(images)
    if images.dtype.kind != "f":
        raise ValueError(
            f"image_grid takes floats in [0, 1], got {images.dtype.name}; divide by "
            "the largest level, or pass model.dequantize(images, seed=None)."
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            "image_grid takes images of shape [n, height, width, 1 or 3], got "
            f"{list(images.shape)}."
        )
    factor = -(-min_side // max(images.shape[1:3]))
    pixels = np.rint(np.nan_to_num(np.clip(images, 0.0, 1.0)) * 255.0).astype(np.uint8)
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    right = [(0, 0), (0, gap), (0, gap), (0, 0)]
    pixels = np.pad(pixels, right, constant_values=128)
    missing = -len(pixels) % num_columns
    pixels = np.pad(pixels, [(0, missing), (0, 0), (0, 0), (0, 0)], constant_values=128)
    _, height, width, channels = pixels.shape
    grid = pixels.reshape(-1, num_columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(-1, num_columns * width, channels)
    return np.pad(grid, [(gap, 0), (gap, 0), (0, 0)], constant_values=128)


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Writes a uint8 image `[height, width, 1 or 3]` as a PNG file, whole or not.

    Raises:
        CannotWrite: If it cannot be written.
    """
    path = Path(path)
    data = tf.io.encode_png(image).numpy()
    replace_file(path, lambda aside: aside.write_bytes(data))


def manifold_grid(model: Any, num_columns: int = 12) -> np.ndarray:
    """Draws the images of a grid over a prior of two latents.

    The grid's points are those whose base noise has the quantiles i / (n + 1) of the
    standard normal along each axis: equal steps of probability, not of distance.

    Args:
        model: A model with an encoder and a prior flow, `latent_dim` 2.
        num_columns: Points along each axis, n.

    Returns:
        One uint8 image `[height, width, C]`.
    """
    levels = np.arange(1, num_columns + 1) / (num_columns + 1)
    quantiles = tf.math.ndtri(tf.constant(levels, model.events.dtype))
    # The second latent grows upwards, as in a plot.
    first, second = tf.meshgrid(quantiles, quantiles[::-1])
    base = tf.stack([tf.reshape(first, [-1]), tf.reshape(second, [-1])], axis=-1)
    # Not `decode`, which refuses the latents of a model that diverges.
    images = model._of_latents(model.chain.generate(base))
    return image_grid(images, num_columns)


def scatter(points: Any, labels: Any, side: int = 480) -> np.ndarray:
    """Draws points of the plane in the colours of their classes.

    The axes reach from the 0.5 to the 99.5 percentile; points outside lie on the edge.
    Points that are not finite, as of a model that diverges, are left out.

    Args:
        points: `[n, 2]`.
        labels: `[n]` integers from 0 on; colours repeat after ten.
        side: Height and width in pixels.

    Returns:
        A uint8 image `[side, side, 3]` on white.
    """
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    finite = np.isfinite(points).all(axis=1)
    points, labels = points[finite], labels[finite]
    if not len(points):
        return np.full((side, side, 3), 255, np.uint8)
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    scaled = (points - low) / np.maximum(high - low, 1e-12)
    margin = 4
    pixels = margin + np.rint(
        np.clip(scaled, 0.0, 1.0) * (side - 1 - 2 * margin)
    ).astype(int)
    picture = np.full((side, side, 3), 255, np.uint8)
    for i in range(-2, 3):
        for j in range(-2, 3):
            rows, columns = side - 1 - pixels[:, 1] + i, pixels[:, 0] + j
            picture[rows, columns] = _COLORS[labels % len(_COLORS)]
    return picture
