"""What a run remembers of its images, to notice when they change."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp.data.splits import SPLITS, Splits

__all__ = ["check_fingerprint", "fingerprint"]

# Images of a split that are looked at: of memory-mapped ones, each is a read.
_MOST_IMAGES = 4096


def fingerprint(splits: Splits) -> dict[str, Any]:
    """The shape of the images, and of each split the number of images and a digest.

    The digest is that of up to 4,096 images, evenly spaced: it tells other images from
    the same ones, but not a change to a few of many. Labels may change: no
    run is trained on them.

    Example:
        >>> from aef_tfp.data import load_splits
        >>> fingerprint(load_splits("digits"))["num_images"]
        {'train': 1347, 'validation': 150, 'test': 300}

    Args:
        splits: The images.

    Returns:
        What JSON can express.
    """
    parts = {name: part.images for name, part in splits.parts().items()}
    return {
        "image_shape": list(splits.info.image_shape),
        "num_images": {name: len(images) for name, images in parts.items()},
        "digests": {name: _digest(images) for name, images in parts.items()},
    }


def check_fingerprint(path: Path, splits: Splits) -> None:
    """Compares images with those of a run.

    Args:
        path: The fingerprint as JSON. Without such a file, which older versions did not
            write, nothing is compared.
        splits: The images.

    Raises:
        ValueError: If they are others, or the file is no fingerprint.
    """
    if not path.is_file():
        return
    now = fingerprint(splits)
    try:
        before = json.loads(path.read_text())
        changes = _changes(before, now)
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"'{path}' does not say what the images of the run were: delete it to go on"
            " without this comparison"
        ) from None
    if changes:
        raise ValueError(
            f"the images are not those that the run began with ({', '.join(changes)}):"
            f" put them back, or start a new run; without '{path}' nothing is compared"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changes = []
    if before["image_shape"] != now["image_shape"]:
        one, two = (tuple(facts["image_shape"]) for facts in (before, now))
        changes.append(f"shape {one} -> {two}")
    for name in SPLITS:
        one, two = (facts["num_images"][name] for facts in (before, now))
        if one != two:
            changes.append(f"{name}: {one:,} -> {two:,} images")
        elif before["digests"][name] != now["digests"][name]:
            changes.append(f"{name}: other images")
    return changes


def _digest(images: np.ndarray) -> str:
    number = min(len(images), _MOST_IMAGES)
    digest = hashlib.blake2b(str(images.shape).encode(), digest_size=16)
    for index in np.linspace(0, len(images) - 1, number).astype(np.int64):
        digest.update(images[index].tobytes())
    return digest.hexdigest()
