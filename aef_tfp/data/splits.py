"""A data set that is ready to be used: images, labels, facts and remarks."""

import dataclasses

import numpy as np

from aef_tfp.data.registry import DatasetInfo

__all__ = ["MIN_TEST_IMAGES", "Split", "Splits"]

MIN_TEST_IMAGES = 2
"""What is reported is a mean with its standard error, which one image does not have."""


# Two arrays have no single truth value, so a generated `==` could only fail.
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, in a fixed order.

    Example:
        >>> len(Split(images=np.zeros([3, 8, 8, 1], np.uint8)))
        3

    Args:
        images: `[n, H, W, C]`, uint8, from 0 to the number of levels - 1; an
            `np.memmap` if the data set is larger than the memory it may take.
        labels: `[n]`, int64, or None if the data set has none.
    """

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """A data set that is ready to be used.

    Args:
        train: The images to fit.
        validation: The images to choose settings and stop early by.
        test: The images to report on.
        info: The facts of the data set. For a folder or a NumPy file, `image_shape` and
            `logit_lambda` are those of the images found.
        notes: What a person should know: sizes that were inferred, files that were
            skipped, a cache in place of memory. One line each, often none.
    """

    train: Split
    validation: Split
    test: Split
    info: DatasetInfo
    notes: tuple[str, ...] = ()
