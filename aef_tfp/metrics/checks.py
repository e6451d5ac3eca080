"""Checks of images and features before a number is made of them."""

from typing import Any

import numpy as np

__all__ = [
    "check_finite",
    "check_floats",
    "check_image_shape",
    "check_pixels",
    "check_same_shape",
    "checked_features",
    "checked_images",
    "one_line",
]


def one_line(error: Exception) -> str:
    """Returns what an error of a library says, for a message of one line."""
    return " ".join(str(error).split()) or type(error).__name__


def check_image_shape(name: str, images: Any) -> None:
    """Raises a ValueError unless the shape is `[n, H, W, 1 or 3]`.

    Args:
        name: What the message calls the images.
        images: An array or tensor.
    """
    shape = list(images.shape)
    if len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape[1:]:
        raise ValueError(
            f"{name} must have shape [n, height, width, 1 or 3], got {shape}; give "
            "grey images a last axis of length 1."
        )


def checked_images(name: str, images: Any) -> np.ndarray:
    """Returns a set of images after a check.

    A pixel of value v out of L levels is v / (L - 1): black is 0 and white is 1.

    Example:
        >>> checked_images("samples", np.zeros([2, 8, 8, 1])).shape
        (2, 8, 8, 1)

    Args:
        name: What the messages call the images.
        images: `[n, H, W, C]` floats in [0, 1]; n is at least 2, C is 1 or 3.

    Returns:
        The images as an array, float64 if they are float64 and float32 otherwise.

    Raises:
        ValueError: If the shape is another, the type is no float, there are fewer than
            2 images, a value is not finite or outside [0, 1].
    """
    images = np.asarray(images)
    check_image_shape(name, images)
    check_floats(name, images)
    if len(images) < 2:
        raise ValueError(
            f"{name} must be at least 2 images, got {len(images)}; one image has no "
            "covariance."
        )
    check_pixels(name, images)
    return images if images.dtype == np.float64 else images.astype(np.float32)


def check_floats(name: str, images: np.ndarray) -> None:
    """Raises a ValueError unless images are of a float type.

    Args:
        name: What the message calls the images.
        images: `[n, H, W, C]`.
    """
    if images.dtype.kind != "f":
        raise ValueError(
            f"{name} must be floats in [0, 1], got {images.dtype}; divide integers by "
            "the number of levels - 1 (by 255.0 for 8 bits)."
        )


def check_pixels(name: str, images: np.ndarray) -> None:
    """Raises a ValueError unless all pixels are floats, finite and in [0, 1].

    Args:
        name: What the message calls the images.
        images: `[n, H, W, C]`.
    """
    check_floats(name, images)
    check_finite(name, images, "images")
    if images.size and (images.min() < 0.0 or images.max() > 1.0):
        outside = ((images < 0.0) | (images > 1.0)).any(axis=(1, 2, 3)).sum()
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {images.min():g} to "
            f"{images.max():g} ({outside} of {len(images)} images); clip or rescale "
            "them."
        )


def checked_features(name: str, features: Any) -> np.ndarray:
    """Returns a set of feature vectors after a check.

    Args:
        name: What the messages call the features.
        features: `[n, k]` numbers; n is at least 2, k at least 1.

    Returns:
        The features in float64.

    Raises:
        ValueError: If the shape is another or a value is not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(
            f"{name} must have shape [n, k], got {list(features.shape)}; pass one "
            "vector per image."
        )
    if len(features) < 2:
        raise ValueError(
            f"{name} must be of at least 2 images, got {len(features)}; one image has "
            "no covariance."
        )
    features = features.astype(np.float64, copy=False)
    check_finite(name, features, "rows")
    return features


def check_same_shape(
    name_a: str, a: np.ndarray, name_b: str, b: np.ndarray, pairs: bool = False
) -> None:
    """Raises a ValueError unless two sets can be compared.

    Args:
        name_a: What the message calls the first set.
        a: `[n, ...]`.
        name_b: What the message calls the second set.
        b: `[m, ...]` with the same axes after the first.
        pairs: Whether n must be m, too.
    """
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"{name_a} and {name_b} must agree in all axes but the first, got shapes "
            f"{list(a.shape)} and {list(b.shape)}; make both in the same way."
        )
    if pairs and len(a) != len(b):
        raise ValueError(
            f"{name_a} and {name_b} must be pairs, got {len(a)} and {len(b)}; pass as "
            "many of one as of the other, in the same order."
        )


def check_finite(name: str, values: np.ndarray, kind: str) -> None:
    """Raises a ValueError that counts the rows with NaN or infinite values.

    Args:
        name: What the message calls the set.
        values: `[n, ...]` floats.
        kind: What the message calls a row.
    """
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        raise ValueError(
            f"{name} must be finite, but {np.count_nonzero(~finite)} of {len(finite)} "
            f"{kind} hold NaN or infinite values; see where they come from before "
            "leaving them out."
        )
