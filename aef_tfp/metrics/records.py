"""Records of means over images."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aef_tfp.records import Record

__all__ = ["records_of_means"]


def records_of_means(
    values: Mapping[str, np.ndarray], *, takes_infinite: bool = False, **facts: Any
) -> list[Record]:
    """Returns a record of the mean of each array, with its standard error.

    Args:
        values: Values per image, `[n]` each, by the names of the records; n at least 2.
        takes_infinite: Whether values may be infinite or NaN, where they are compared
            and their mean says nothing.
        **facts: The other fields of `Record`.

    Raises:
        ValueError: If there are fewer than 2 values, or some are not finite and not
            taken.
    """
    records = []
    for name, array in values.items():
        array = np.asarray(array, np.float64)
        if len(array) < 2:
            raise ValueError(
                f"{name} must be a mean over at least 2 images, got {len(array)}; one "
                "has no standard error."
            )
        bad = ~np.isfinite(array)
        if bad.any() and not takes_infinite:
            places = np.flatnonzero(bad)
            which = ", ".join(map(str, places[:5])) + ", ..." * (len(places) > 5)
            raise ValueError(
                f"{name} is not finite for {len(places)} of {len(array)} images "
                f"(counted from 0: {which}); see what is special about them before "
                "leaving them out."
            )
        with np.errstate(invalid="ignore"):
            mean = float(array.mean())
            error = float(array.std(ddof=1) / math.sqrt(len(array)))
        records.append(
            Record(
                name=name,
                value=mean,
                standard_error=error,
                num_images=len(array),
                per_image=array,
                **facts,
            )
        )
    return records
