"""A data set that is ready to be used: images, labels, facts and remarks."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from aef_tfp.data.registry import DatasetInfo

__all__ = [
    "LEAST_IMAGES",
    "MIN_TEST_IMAGES",
    "SPLITS",
    "SPLIT_WORDS",
    "Split",
    "Splits",
    "drawn_sizes",
    "sizes_note",
]

MIN_TEST_IMAGES = 2
"""What is reported is a mean with its standard error, which one image does not have."""

SPLITS = ("train", "validation", "test")
"""The splits by their names."""

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Other names of the splits, in lower case."""

LEAST_IMAGES = {"train": 1, "validation": 1, "test": MIN_TEST_IMAGES}
"""How many images each split has at least."""

# What to say of the least number of images, by the splits that are drawn from them.
_SHARES = {
    (): "",
    ("validation",): ", one of them for validation",
    ("test",): f", {MIN_TEST_IMAGES} of them for test",
    ("validation", "test"): (
        f", one each for training and validation and {MIN_TEST_IMAGES} for test"
    ),
}


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

    def parts(self) -> dict[str, Split]:
        """The splits by their names."""
        return {name: getattr(self, name) for name in SPLITS}


def drawn_sizes(
    given: Mapping[str, int], names: Mapping[str, str], whole: bool = False
) -> dict[str, int]:
    """How many images each split has, if what is not given is drawn from `train`.

    That is a tenth of them, and at least one for validation and two for test.

    Example:
        >>> drawn_sizes({"train": 20, "test": 5}, {"train": "a", "test": "b"})
        {'train': 18, 'validation': 2, 'test': 5}

    Args:
        given: The number of images of `train`, which are all images if nothing else is
            given, and of other splits.
        names: What to call those that are given.
        whole: Whether all images are for one purpose, so that a split may have none.

    Raises:
        ValueError: If there are too few images.
    """
    sizes = dict(given)
    drawn = tuple(split for split in SPLITS if split not in given)
    tenth = max(1, round(given["train"] / 10))
    for split in drawn:
        sizes[split] = min(max(LEAST_IMAGES[split], tenth), sizes["train"])
        sizes["train"] -= sizes[split]
    if whole:
        return {split: sizes[split] for split in SPLITS}
    for split, number in given.items():
        shares = drawn if split == "train" else ()
        if sizes[split] < LEAST_IMAGES[split]:
            noun = "image" if number == 1 else "images"
            least = LEAST_IMAGES[split] + sum(LEAST_IMAGES[share] for share in shares)
            raise ValueError(
                f"{names[split]} holds {number} readable {noun}: there must be at"
                f" least {least}{_SHARES[shares]}: add more"
            )
    return {split: sizes[split] for split in SPLITS}


def sizes_note(
    sizes: Mapping[str, int], given: Mapping[str, int], seed: int, by: str
) -> str:
    """Says how many images each split has, and who decided which.

    Args:
        sizes: What `drawn_sizes` returns.
        given: What it was given.
        seed: The seed of what is drawn.
        by: What gives splits, as in "by the folders 'train' and 'test'".
    """
    numbers = ", ".join(
        f"{sizes[split]:,} {word}"
        for split, word in zip(SPLITS, ("training", "validation", "test"), strict=True)
    )
    drawn = [split for split in SPLITS if split not in given]
    if len(given) == 1:
        how = f"splits drawn by seed {seed}"
    elif drawn:
        how = f"splits as given {by}, {drawn[0]} drawn from training by seed {seed}"
    else:
        how = f"splits as given {by}"
    return f"{how}: {numbers} images"
