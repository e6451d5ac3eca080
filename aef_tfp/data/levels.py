"""How many values the pixels of one's own images can take."""

import dataclasses

import numpy as np

from aef_tfp.data.splits import Splits

__all__ = ["AboveLevels", "with_levels"]

# Of 256 levels, photographs and drawings use the upper half, too.
_SMALL = 128

# Images that are looked at once, which may come from a file.
_CHUNK = 1024


class AboveLevels(ValueError):  # noqa: N818 - as TooManyBits
    """A pixel is above the number of levels.

    Args:
        where: What holds the pixel, for the message.
        value: Of the pixel, as the file has it.
        num_levels: How many values a pixel can take.
    """

    def __init__(self, where: str, value: int, num_levels: int) -> None:
        super().__init__(
            f"{where} has a pixel of value {value}, but num_levels is {num_levels}, so"
            f" at most {num_levels - 1}: pass a higher --num-levels (num_levels=...),"
            " or correct the images"
        )
        self.where, self.value = where, value


def with_levels(splits: Splits, num_levels: int | None) -> Splits:
    """A data set of one's own whose number of levels is checked, or doubted.

    Args:
        splits: The images.
        num_levels: How many values a pixel can take; None if nobody said.

    Returns:
        The same images, with that number in their facts; of None with a note if the
        training images have small values only.

    Raises:
        AboveLevels: If a pixel has another value.
    """
    if num_levels is None:
        largest = _largest(splits.train.images, _SMALL)
        if largest >= _SMALL:
            return splits
        note = (
            f"the largest value of the training images is {largest}: if a pixel can"
            " take fewer than 256 values, say how many with --num-levels"
            " (num_levels=...), else bits per dimension are wrong"
        )
        return dataclasses.replace(splits, notes=(*splits.notes, note))
    for name, part in splits.parts().items():
        largest = _largest(part.images, num_levels)
        if largest >= num_levels:
            where = f"data set {splits.info.name!r} ({name})"
            raise AboveLevels(where, largest, num_levels)
    info = dataclasses.replace(splits.info, num_levels=num_levels)
    return dataclasses.replace(splits, info=info)


def _largest(images: np.ndarray, enough: int) -> int:
    """The largest value of all images, or of the first ones that reach `enough`."""
    largest = 0
    for start in range(0, len(images), _CHUNK):
        largest = max(largest, int(images[start : start + _CHUNK].max(initial=0)))
        if largest >= enough:
            break
    return largest
