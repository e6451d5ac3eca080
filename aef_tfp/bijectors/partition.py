"""The partition of an event into core and shell, and the masks that describe it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors.reuse import with_plain_ranks

__all__ = ["Partition", "center_mask", "corner_mask", "partition_mask", "random_mask"]


class Partition(tfb.Chain):
    """Merges a pair (core `[d]`, shell `[n - d]`) into one event, and splits it again.

    `forward([core, shell])` puts the core's values where `mask` is true and the
    shell's where it is false, both in row-major order; `inverse(event)` takes them
    apart. It is a permutation: the log-determinant is zero.

    Args:
        mask: Boolean array of the event's shape, e.g. `[H, W, C]` or `[n]`; at least
            one entry true and one false.
        validate_args: As in every TFP bijector.
        name: Name of the operations.

    Raises:
        ValueError: If `mask` is not boolean, or all its entries are equal.

    Example:
        >>> core, shell = Partition([False, True, False]).inverse([1.0, 2.0, 3.0])
        >>> core.numpy(), shell.numpy()
        (array([2.], dtype=float32), array([1., 3.], dtype=float32))
    """

    def __init__(self, mask, validate_args: bool = False, name: str = "partition"):
        mask = np.asarray(mask)
        if mask.dtype != np.bool_:
            raise ValueError(
                f"mask must be a boolean array, got dtype {mask.dtype}; "
                "pass mask.astype(bool) if its nonzero entries mark the core."
            )
        if mask.all() or not mask.any():
            raise ValueError(
                f"mask must have core (True) and shell (False) entries, got "
                f"{int(mask.sum())} True among {mask.size}."
            )
        self._mask = mask
        flat = mask.ravel()
        core_first = np.concatenate([np.flatnonzero(flat), np.flatnonzero(~flat)])
        core_size = int(flat.sum())
        super().__init__(
            [
                tfb.Reshape(event_shape_out=mask.shape, event_shape_in=[mask.size]),
                tfb.Permute(np.argsort(core_first).astype(np.int32)),
                tfb.Invert(tfb.Split([core_size, mask.size - core_size])),
            ],
            validate_args=validate_args,
            name=name,
        )
        with_plain_ranks(self)

    def copy(self, **overrides):
        """Returns a partition of the same arguments, but for those given."""
        # TFP takes those of the chain.
        own = {"validate_args": self.validate_args, "name": self.name}
        return Partition(**{"mask": self._mask, **own, **overrides})

    @property
    def mask(self) -> np.ndarray:
        """The boolean mask, true at the core's entries."""
        return self._mask


def partition_mask(
    partition: Any, event_shape: Sequence[int], latent_dim: int, seed: int = 0
) -> np.ndarray:
    """Returns the boolean core mask that a name or an array describes.

    Args:
        partition: `"center"`, `"corner"`, `"random"`, or a boolean array of shape
            `event_shape` with `latent_dim` true entries.
        event_shape: `(H, W, C)` or `(n,)`.
        latent_dim: Number of core entries, `1 <= latent_dim < prod(event_shape)`.
        seed: Seed of the random partition; the others ignore it.

    Returns:
        Boolean array of shape `event_shape` with `latent_dim` true entries.

    Raises:
        ValueError: If the name is unknown, or the mask's type, shape or count is wrong,
            or a number is out of its range.
    """
    event_shape = tuple(event_shape)
    size = int(np.prod(event_shape))
    if size == 1:
        raise ValueError(
            f"An event of one entry has no partition into core and shell, got shape "
            f"{event_shape}; give events of two entries or more, or use an ExpandedAEF."
        )
    _check_latent_dim(event_shape, latent_dim)
    builders: dict[str, Callable[[], np.ndarray]] = {
        "center": lambda: center_mask(event_shape, latent_dim),
        "corner": lambda: corner_mask(event_shape, latent_dim),
        "random": lambda: random_mask(event_shape, latent_dim, seed=seed),
    }
    if isinstance(partition, str):
        if partition not in builders:
            raise ValueError(
                f"partition must be one of {', '.join(map(repr, builders))} or a "
                f"boolean mask of shape {event_shape}, got {partition!r}."
            )
        return builders[partition]()
    # A copy, which does not change with the user's.
    mask = np.array(partition)
    if mask.dtype != np.bool_ or mask.shape != event_shape:
        raise ValueError(
            f"The partition mask must be a boolean array of shape {event_shape}, got "
            f"dtype {mask.dtype} and shape {mask.shape}."
        )
    if int(mask.sum()) != latent_dim:
        raise ValueError(
            f"The partition mask must have latent_dim = {latent_dim} True entries, "
            f"got {int(mask.sum())}."
        )
    return mask


def center_mask(event_shape: Sequence[int], latent_dim: int) -> np.ndarray:
    """Marks `latent_dim` entries on a square spiral that starts near the centre.

    It starts at row and column `side // 2 - 1`, counted from 0: of even sides at the
    upper left of the pixels around the centre, and of odd sides one before the middle
    (for sides of 3 at the first). All channels of a pixel are taken in turn before the
    spiral goes on. A vector `(n,)` counts as an image of one row.

    Raises:
        ValueError: If there is no such number of core entries, or no such image.
    """
    height, width, _ = _as_image_shape(event_shape)
    return _mask_of_pixels(event_shape, latent_dim, _spiral(height, width))


def corner_mask(event_shape: Sequence[int], latent_dim: int) -> np.ndarray:
    """Marks `latent_dim` entries from the four corners inwards along the sides.

    The four corners of each channel come first, channel by channel, then the next
    pixel along each side, then the next ring. A vector `(n,)` counts as an image of one
    row, so entries are taken from its two ends.

    Raises:
        ValueError: If there is no such number of core entries, or no such image.
    """
    height, width, channels = _as_image_shape(event_shape)
    entries = (
        (row, column, channel)
        for corners in _corners_inwards(height, width)
        for channel in range(channels)
        for row, column in corners
    )
    return _mask_of_entries(event_shape, latent_dim, entries)


def random_mask(
    event_shape: Sequence[int], latent_dim: int, *, seed: int
) -> np.ndarray:
    """Marks `latent_dim` entries drawn without replacement under a seed.

    Raises:
        ValueError: If there is no such number of core entries, or no such seed.
    """
    _check_latent_dim(event_shape, latent_dim)
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}.")
    mask = np.zeros(int(np.prod(event_shape)), dtype=bool)
    chosen = np.random.default_rng(seed).permutation(mask.size)[:latent_dim]
    mask[chosen] = True
    return mask.reshape(event_shape)


def _check_latent_dim(event_shape: Sequence[int], latent_dim: Any) -> None:
    size = int(np.prod(event_shape))
    is_integer = isinstance(latent_dim, (int, np.integer))
    if not is_integer or not 1 <= latent_dim < size:
        raise ValueError(
            f"latent_dim must lie in [1, {size - 1}], an integer, for a partition of "
            f"events of shape {tuple(event_shape)}, got {latent_dim!r}."
        )


def _as_image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(event_shape) == 1:
        return 1, event_shape[0], 1
    if len(event_shape) == 3:
        return event_shape[0], event_shape[1], event_shape[2]
    raise ValueError(
        "A center or corner partition needs events of shape (height, width, channels) "
        f"or (n,), got {tuple(event_shape)}; pass a boolean mask instead."
    )


def _mask_of_pixels(event_shape, latent_dim, pixels) -> np.ndarray:
    channels = _as_image_shape(event_shape)[2]
    entries = ((*pixel, channel) for pixel in pixels for channel in range(channels))
    return _mask_of_entries(event_shape, latent_dim, entries)


def _mask_of_entries(event_shape, latent_dim, entries) -> np.ndarray:
    _check_latent_dim(event_shape, latent_dim)
    mask = np.zeros(_as_image_shape(event_shape), dtype=bool)
    # dict keeps the first of equal entries: the sides of a ring meet at its corners.
    for entry in islice(dict.fromkeys(entries), latent_dim):
        mask[entry] = True
    return mask.reshape(event_shape)


def _spiral(height: int, width: int) -> Iterator[tuple[int, int]]:
    row, column = max(height // 2 - 1, 0), max(width // 2 - 1, 0)
    yield row, column
    row_step, column_step, run = 0, 1, 1
    # Runs of length 1, 1, 2, 2, 3, 3, ... that turn right each time; two runs as long
    # as twice the larger side leave no pixel out, wherever the spiral starts.
    while run <= 2 * max(height, width):
        for _ in range(2):
            for _ in range(run):
                row, column = row + row_step, column + column_step
                if 0 <= row < height and 0 <= column < width:
                    yield row, column
            row_step, column_step = column_step, -row_step
        run += 1


def _corners_inwards(height: int, width: int) -> Iterator[list[tuple[int, int]]]:
    for ring in range((min(height, width) + 1) // 2):
        top, left = ring, ring
        bottom, right = height - 1 - ring, width - 1 - ring
        for k in range(max(bottom - top, right - left) + 1):
            yield [
                (top, min(left + k, right)),
                (min(top + k, bottom), right),
                (bottom, max(right - k, left)),
                (max(bottom - k, top), left),
            ]
