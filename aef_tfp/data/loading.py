"""Image data by name, decoded once, with splits that never change."""

import os
from pathlib import Path
from typing import Any

from aef_tfp.data.registry import DatasetInfo, dataset_info
from aef_tfp.data.splits import Splits

__all__ = ["check_source", "load_splits", "load_whole"]


def load_splits(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    num_levels: int | None = None,
    bit_depth: int | None = None,
    seed: int = 3,
    skip_unreadable: bool = False,
    memory_limit: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Splits:
    """A data set by name, decoded once.

    The images stay unsigned bytes (42 MB for MNIST's 54,000). Held in memory, they can
    be read in any order: this is what makes the order of training exact, a real
    permutation in every epoch, and resumable at any step. A split that would take more
    than `memory_limit` is decoded into a file in `cache_dir` instead, which is mapped
    into memory and read again by later runs; `notes` of the result says so.

    **A data set of TFDS.** Validation images are a split of their own if the table says
    so, else the last part of the training split, by their place in the files: the same
    ones in every run, whatever its seed.

    **`folder`**: all image files below `data_dir`, also where links lead to, hidden
    ones and run directories apart, of any mix of sizes and kinds; they are known by
    their endings (.png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff, .ppm and the like,
    in any case). A file that is reached twice counts once; `notes` says what was left
    out. The largest central square of each is resized (bicubic, antialiased). The
    orientation that a camera notes is applied, 16 bits become 8, transparent pixels are
    composed with white. Folders `train` and `val` (`valid`, `validation`) or `test`, in
    any case, are the splits; one that is missing is drawn from `train`. Without them
    the seed draws 80 % of the files for training, 10 % for validation and 10 % for test
    (at least 2), from their names alone: the same on every file system, and a file more
    or less moves no other, but for those at the border of two splits.

    **`npz`**: a NumPy file with an array `images`, split by the seed in the same
    proportions; or with `train`, `validation` and `test`; or with `train` and `test`,
    of which a tenth of `train` is drawn for validation. Each is uint8 `[n, H, W]` or
    `[n, H, W, C]` with C = 1 or 3, and taken as it is; labels are arrays of integers
    `labels`, or `train_labels` and so on.

    Example:
        >>> splits = load_splits("digits")
        >>> splits.train.images.shape
        (1347, 8, 8, 1)

    Args:
        name: A key of `DATASETS`.
        data_dir: The folder of TFDS data sets, which must exist; None is TFDS's own
            default, the environment variable `TFDS_DATA_DIR` or else
            `~/tensorflow_datasets`, which is made if it does not. For `folder`, the
            folder of images; for `npz`, the file, or a folder with exactly one.
        download: Whether to download and prepare the data set if `data_dir` does not
            hold it; TFDS then shows its progress. An embedded data set (`digits`) is
            prepared on first use, quietly and without a network, in any case; so is
            CelebA-HQ, once a person has put its files where the table says, in some
            minutes.
        image_size: The side of the square images, for `folder` only: at least 4. None
            is the largest of 64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8 and 4, which
            every network takes, that is no larger than the smallest side of all images.
        channels: 1 or 3, for `folder` only. None is 1 if all images are grey, else 3.
            1 makes colours grey.
        num_levels: How many values a pixel can take, 0 to `num_levels - 1`, for
            `folder` and `npz` only: from 2 to 256. None is 256; `notes` then says if
            the training images have small values only. Fewer are checked in the files
            of `folder`, where those of one bit hold 0 and 1, and kept by resizing.
        bit_depth: How many of 16 bits the files of `folder` use, from 8 to 16: scans
            of 12 bits are stored in 16. None is 16, unless no file uses more than 14,
            which is refused: it must be said.
        seed: Draws the splits of `folder` and `npz`: at least 0.
        skip_unreadable: Whether `folder` leaves out files that cannot be read; `notes`
            then names them.
        memory_limit: The most bytes that the images of a split (of all splits, for
            `folder`) may take in memory; None is a quarter of what is free.
        cache_dir: Where decoded images go that exceed the limit; None is `aef_tfp` in
            the user's cache (`XDG_CACHE_HOME`, or else `~/.cache`).

    Returns:
        The training, validation and test images.

    Raises:
        FileNotFoundError: If `data_dir` does not hold the data set, and `download` is
            False, or nothing can download it.
        OSError: If an embedded data set cannot be written to `data_dir`, or decoded
            images to `cache_dir`.
        ValueError: If there is no data set of that name, the data found are not those
            which `DATASETS` or the arguments describe, or files cannot be read.
    """
    info = dataset_info(name)
    _check_arguments(info, image_size, channels, num_levels, bit_depth, seed)
    storage: dict[str, Any] = {"memory_limit": memory_limit, "cache_dir": cache_dir}
    if info.source == "tfds":
        from aef_tfp.data.prepared import load_prepared

        return load_prepared(info, data_dir, download=download, **storage)
    data_dir = _place_of_own(info, data_dir)
    own: dict[str, Any] = {
        "image_size": image_size,
        "channels": channels,
        "seed": seed,
        **storage,
    }
    if info.source == "folder":
        own |= {"bit_depth": bit_depth, "skip_unreadable": skip_unreadable}
    return _load_own(info, data_dir, num_levels, **own)


def load_whole(
    name: str,
    place: str | os.PathLike[str],
    *,
    num_levels: int | None = None,
    seed: int = 3,
    **own: Any,
) -> Splits:
    """All images of a folder or a NumPy file, which no run is to be trained on.

    They are read, and ordered by the seed, as by `load_splits`. Since all of them are
    for one purpose, there may be few: a split may have none.

    Args:
        name: `folder` or `npz`.
        place: The folder, or the file.
        num_levels: As for `load_splits`.
        seed: As for `load_splits`.
        **own: For `folder`: `image_size`, `channels`, `bit_depth` and
            `skip_unreadable`, as for `load_splits`.
    """
    unsaid = dict.fromkeys(("image_size", "channels", "memory_limit", "cache_dir"))
    if name == "folder":
        unsaid |= {"bit_depth": None, "skip_unreadable": False}
    own = {**unsaid, **own, "seed": seed, "whole": True}
    return _load_own(dataset_info(name), Path(place), num_levels, **own)


def _load_own(
    info: DatasetInfo, place: Path, num_levels: int | None, **own: Any
) -> Splits:
    from aef_tfp.data.levels import with_levels

    if info.source == "npz":
        from aef_tfp.data.npz import load_npz

        splits = load_npz(info, place, **own)
    else:
        from aef_tfp.data.folder import load_folder

        splits = load_folder(info, place, num_levels=num_levels, **own)
    return with_levels(splits, num_levels)


def check_source(name: str, data_dir: str | os.PathLike[str] | None) -> None:
    """Refuses images that cannot be where they are said to be; reads none.

    It imports nothing heavy, so that a command line can answer at once.

    Args:
        name: A key of `DATASETS`.
        data_dir: As for `load_splits`.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If it has to be named, holds the user's own images where a data set
            of TFDS is asked, or there is no data set of that name.
    """
    info = dataset_info(name)
    if info.source == "tfds":
        from aef_tfp.data.prepared import check_folder

        check_folder(info, data_dir)
        return
    _place_of_own(info, data_dir)


def _place_of_own(info: DatasetInfo, data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder or file of a user's own images, which is there."""
    what = "folder of images" if info.source == "folder" else ".npz file"
    if data_dir is None:
        raise ValueError(
            f"data set {info.name!r} needs a place: pass your {what} with --data-dir"
            " (data_dir=...)"
        )
    if info.source == "npz":
        from aef_tfp.data.npz import image_file

        return image_file(data_dir)
    from aef_tfp.data.folder import image_folder

    return image_folder(data_dir)


def _check_arguments(
    info: DatasetInfo,
    image_size: int | None,
    channels: int | None,
    num_levels: int | None,
    bit_depth: int | None,
    seed: int,
) -> None:
    if image_size is not None and image_size < 4:
        raise ValueError(f"image_size must be at least 4, got {image_size}")
    if channels not in (None, 1, 3):
        raise ValueError(
            f"channels must be 1 (grey) or 3 (RGB), got {channels}: transparency is no"
            " channel of an image here"
        )
    if num_levels is not None and not 2 <= num_levels <= 256:
        raise ValueError(f"num_levels must be from 2 to 256, got {num_levels}")
    if bit_depth is not None and not 8 <= bit_depth <= 16:
        raise ValueError(f"bit_depth must be from 8 to 16, got {bit_depth}")
    if bit_depth is not None and info.source != "folder":
        raise ValueError(
            f"bit_depth is for the data set 'folder', not {info.name!r}: leave it out"
        )
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if info.source != "tfds":
        return
    if num_levels is not None and num_levels != info.num_levels:
        raise ValueError(
            f"num_levels is {num_levels}, but the images of data set {info.name!r} have"
            f" {info.num_levels} levels: leave it out"
        )
    height, width, number = info.image_shape
    if image_size is not None and (image_size, image_size) != (height, width):
        raise ValueError(
            f"image_size is {image_size}, but data set {info.name!r} has images of"
            f" {height} x {width}: leave it out"
        )
    if channels is not None and channels != number:
        raise ValueError(
            f"channels is {channels}, but the images of data set {info.name!r} have"
            f" {number}: leave it out"
        )
