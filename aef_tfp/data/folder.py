"""A folder of image files as a data set."""

import dataclasses
import hashlib
import os
import unicodedata
from pathlib import Path

import numpy as np

from aef_tfp.data.image_files import (
    EXTENSIONS,
    Header,
    find_image_files,
    parallel,
    problem,
    read_header,
    read_image,
)
from aef_tfp.data.registry import DatasetInfo
from aef_tfp.data.splits import MIN_TEST_IMAGES, Split, Splits
from aef_tfp.data.storage import Facts, decode_once

__all__ = ["load_folder", "own_info", "split_sizes"]

# What may be inferred: sides that all networks take, up to the paper's largest.
_SIDES = (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4)

# More names than these would hide the message.
_MOST_NAMES = 10


def load_folder(
    info: DatasetInfo,
    folder: str | os.PathLike[str],
    *,
    image_size: int | None,
    channels: int | None,
    seed: int,
    skip_unreadable: bool,
    memory_limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Splits:
    """Reads all image files below a folder; see `load_splits`."""
    path = Path(os.path.expanduser(os.fspath(folder)))
    if not path.is_dir():
        found = f"there is no folder '{path}'"
        if path.exists():
            found = f"'{path}' is a file, not a folder"
        raise FileNotFoundError(
            f"{found}: pass the folder of your image files with --data-dir"
            " (data_dir=...)"
        )
    names, others = find_image_files(path)
    if not names:
        found = f"there are no images in '{path}'"
        if others:
            noun = "file" if len(others) == 1 else "files"
            found += f", but {len(others)} other {noun}, such as {others[0]!r}"
        raise FileNotFoundError(
            f"{found}: pass a folder with files that end in {', '.join(EXTENSIONS)}"
        )
    names = _drawn_order(names, seed)
    headers: dict[str, Header] = {}
    bad: dict[str, str] = {}
    results = parallel(lambda name: read_header(path / name), names)
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Exception):
            bad[name] = problem(result)
        else:
            headers[name] = result
    if not headers:
        raise ValueError(
            f"none of the {len(names)} image files in '{path}' is readable:"
            f" {_listed(dict(sorted(bad.items())))}"
        )
    shape, note = _shape(list(headers.values()), image_size, channels)
    readable = list(headers)

    def fill(out: np.ndarray) -> tuple[int, None, Facts]:
        def read(index: int) -> None:
            out[index] = read_image(path / readable[index], *shape)

        failures = {
            readable[index]: problem(result)
            for index, result in enumerate(parallel(read, range(len(readable))))
            if isinstance(result, Exception)
        }
        failures = dict(sorted({**bad, **failures}.items()))
        if failures and not skip_unreadable:
            verb = "is" if len(failures) == 1 else "are"
            raise ValueError(
                f"{len(failures)} of {len(names)} image files {verb} unreadable in"
                f" '{path}': {_listed(failures)}: repair or remove them, or pass"
                " --skip-unreadable (skip_unreadable=True)"
            )
        count = 0
        for index, name in enumerate(readable):
            if name not in failures:
                # Close the gaps; before the first one, nothing moves.
                if count != index:
                    out[count] = out[index]
                count += 1
        return count, None, {"unreadable": failures}

    decoded = decode_once(
        info.name,
        (len(readable), *shape),
        fill,
        key=[[name, *_state(path / name)] for name in names]
        + [str(path.resolve()), skip_unreadable],
        memory_limit=memory_limit,
        cache_dir=cache_dir,
    )
    failures = decoded.facts["unreadable"]
    notes = [note]
    if failures:
        notes.append(
            f"{len(failures)} of {len(names)} image files are unreadable and were"
            f" skipped: {_listed(failures)}"
        )
    images = decoded.images
    num_train, num_validation, num_test = split_sizes(len(images), f"'{path}'")
    notes.append(
        f"splits drawn by seed {seed}: {num_train:,} training, {num_validation:,}"
        f" validation, {num_test:,} test images"
    )
    if decoded.note:
        notes.append(decoded.note)
    return Splits(
        train=Split(images[:num_train]),
        validation=Split(images[num_train:-num_test]),
        test=Split(images[-num_test:]),
        info=own_info(info, shape),
        notes=tuple(notes),
    )


def own_info(info: DatasetInfo, shape: tuple[int, int, int]) -> DatasetInfo:
    """The facts of a data set of one's own, now that the shape is known."""
    logit_lambda = 0.05 if shape[-1] == 3 else 1e-6
    return dataclasses.replace(info, image_shape=shape, logit_lambda=logit_lambda)


def split_sizes(num_images: int, where: str) -> tuple[int, int, int]:
    """How many images are for training, validation and test: 80, 10 and 10 %.

    Raises:
        ValueError: If there are too few for one, one and two.
    """
    if num_images < 2 + MIN_TEST_IMAGES:
        noun = "image" if num_images == 1 else "images"
        raise ValueError(
            f"{where} holds {num_images} readable {noun}: there must be at least"
            f" {2 + MIN_TEST_IMAGES}, one each for training and validation and"
            f" {MIN_TEST_IMAGES} for test: add more"
        )
    tenth = max(1, round(num_images / 10))
    num_test = max(MIN_TEST_IMAGES, tenth)
    return num_images - tenth - num_test, tenth, num_test


def _drawn_order(names: list[str], seed: int) -> list[str]:
    """The names in an order that the seed draws.

    Each name gets a random key of its own, so that adding or removing a file moves no
    other one: whether a bad file is skipped or deleted is all the same.
    """

    def key(name: str) -> bytes:
        # File systems differ in how they write an accent.
        text = f"{seed}/{unicodedata.normalize('NFC', name)}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).digest()

    return sorted(names, key=key)


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        # A link to nothing: unreadable, like other files.
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _shape(
    headers: list[Header], image_size: int | None, channels: int | None
) -> tuple[tuple[int, int, int], str]:
    """The shape of all images, and what to tell about it."""
    sides = [min(header.width, header.height) for header in headers]
    smallest = min(sides)
    if image_size is None:
        size = next((side for side in _SIDES if side <= smallest), 0)
        if size == 0:
            raise ValueError(
                f"the smallest image has a side of {smallest} pixels: pass --image-size"
                " (image_size=...), at least 4"
            )
        why = (
            f" (no larger than the smallest side of all, {smallest}, or than"
            f" {_SIDES[0]}, and a side that every network takes; --image-size sets"
            " another)"
        )
    else:
        size = image_size
        smaller = sum(side < size for side in sides)
        why = f" ({smaller:,} of them enlarged)" if smaller else ""
    all_grey = all(header.grey for header in headers)
    if channels == 3 and all_grey:
        raise ValueError(
            f"channels is 3, but all {len(headers):,} images are grey: pass"
            " --channels 1 (channels=1) or leave it out"
        )
    found = 1 if all_grey else 3
    widths = [header.width for header in headers]
    heights = [header.height for header in headers]
    note = (
        f"{len(headers):,} image files, {min(widths)} to {max(widths)} pixels wide and"
        f" {min(heights)} to {max(heights)} high, become {size} x {size}{why}"
        f" with {'1 channel' if (channels or found) == 1 else '3 channels'}"
    )
    return (size, size, channels or found), note


def _listed(bad: dict[str, str]) -> str:
    # A name may hold a line break.
    listed = [
        f"{name!r} ({reason})" for name, reason in list(bad.items())[:_MOST_NAMES]
    ]
    if len(bad) > _MOST_NAMES:
        listed.append(f"and {len(bad) - _MOST_NAMES:,} more")
    return ", ".join(listed)
