"""A folder of image files as a data set."""

import dataclasses
import hashlib
import os
import unicodedata
from pathlib import Path

import numpy as np

from aef_tfp.data.folder_splits import FolderSplits, find_splits
from aef_tfp.data.image_files import (
    Header,
    TooManyBits,
    largest_value,
    parallel,
    problem,
    read_header,
    read_image,
)
from aef_tfp.data.levels import AboveLevels
from aef_tfp.data.registry import DatasetInfo
from aef_tfp.data.splits import SPLITS, Split, Splits, drawn_sizes, sizes_note
from aef_tfp.data.storage import Facts, decode_once, file_state

__all__ = ["image_folder", "load_folder", "own_info"]

# What may be inferred: sides that all networks take, up to the paper's largest.
_SIDES = (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4)

# Numbers of bits that scanners have, and that are stored in 16. Who uses more than the
# last one loses little, and may mean it.
_FEW_BITS = (8, 10, 12, 14)

# More names than these would hide the message.
_MOST_NAMES = 10


def image_folder(folder: str | os.PathLike[str]) -> Path:
    """Returns the folder that is meant.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(os.path.expanduser(os.fspath(folder)))
    if path.is_dir():
        return path
    found = f"there is no folder '{path}'"
    if path.exists():
        found = f"'{path}' is a file, not a folder"
    raise FileNotFoundError(
        f"{found}: pass the folder of your image files with --data-dir (data_dir=...)"
    )


def load_folder(
    info: DatasetInfo,
    folder: str | os.PathLike[str],
    *,
    image_size: int | None,
    channels: int | None,
    num_levels: int | None,
    bit_depth: int | None,
    seed: int,
    skip_unreadable: bool,
    memory_limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
    whole: bool = False,
) -> Splits:
    """Reads all image files below a folder; see `load_splits` and `load_whole`."""
    path = image_folder(folder)
    files = find_splits(path, whole)
    # Who reads them whole, has no such option.
    or_skip = "" if whole else ", or pass --skip-unreadable (skip_unreadable=True)"
    notes = _notes_of_files(files, path, skip_unreadable, or_skip)
    places = {name: split for split, names in files.images.items() for name in names}
    names = [n for split in files.images.values() for n in _drawn_order(split, seed)]
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
    shape, note = _shape(list(headers.values()), image_size, channels, needed=not whole)
    # Images beside a run's may have 8 bits where those have more.
    depth = _depth(path, headers, bit_depth, needed=not whole)
    readable = list(headers)
    levels = num_levels or 256

    def fill(out: np.ndarray) -> tuple[int, None, Facts]:
        def read(index: int) -> None:
            out[index] = read_image(path / readable[index], *shape, depth, levels)

        failures = dict(bad)
        for index, result in enumerate(parallel(read, range(len(readable)))):
            if isinstance(result, TooManyBits):
                another = (
                    "" if whole else "pass another --bit-depth (bit_depth=...), or "
                )
                raise ValueError(
                    f"bit_depth is {depth}, but {readable[index]!r} in '{path}'"
                    f" {result}: {another}convert the files to 8 bits"
                )
            if isinstance(result, AboveLevels):
                raise result
            if isinstance(result, Exception):
                failures[readable[index]] = problem(result)
        failures = dict(sorted(failures.items()))
        if failures and not skip_unreadable:
            verb = "is" if len(failures) == 1 else "are"
            raise ValueError(
                f"{len(failures)} of {len(names)} image files {verb} unreadable in"
                f" '{path}': {_listed(failures)}: repair or remove them{or_skip}"
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
        key=[[name, *file_state(path / name)] for name in names]
        + [str(path.resolve()), skip_unreadable, depth, levels],
        memory_limit=memory_limit,
        cache_dir=cache_dir,
    )
    failures = decoded.facts["unreadable"]
    notes.insert(0, note)
    several = [name for name in sorted(headers) if headers[name].several]
    if several:
        noun = "file holds" if len(several) == 1 else "files hold"
        notes.append(
            f"{len(several):,} {noun} several pictures, such as {several[0]!r}: the"
            " first of each is taken"
        )
    if failures:
        notes.append(
            f"{len(failures)} of {len(names)} image files are unreadable and were"
            f" skipped: {_listed(failures)}"
        )
    given = dict.fromkeys(files.images, 0)
    for name in names:
        given[places[name]] += name not in failures
    sizes = drawn_sizes(given, files.titles, whole)
    notes.append(sizes_note(sizes, given, seed, files.by))
    if decoded.note:
        notes.append(decoded.note)
    # What is drawn from the training images is the end of them.
    drawn = [split for split in SPLITS if split not in given]
    parts, start = {}, 0
    for split in ("train", *drawn, *list(given)[1:]):
        parts[split] = Split(decoded.images[start : start + sizes[split]])
        start += sizes[split]
    return Splits(**parts, info=own_info(info, shape), notes=tuple(notes))


def _notes_of_files(
    files: FolderSplits, path: Path, skip_unreadable: bool, or_skip: str
) -> list[str]:
    """What to say of files and folders that are left out, or stand out.

    Raises:
        ValueError: If folders cannot be listed, and must not be skipped.
    """
    notes = []
    found = files.found
    left_out = found.left_out()
    if left_out:
        advice = ": to have pictures among them, convert them to .png"
        notes.append(f"left out {left_out}{advice if found.others else ''}")
    if found.again:
        number = len(found.again)
        noun = "link or name leads" if number == 1 else "links or names lead"
        notes.append(
            f"{number:,} {noun} to files that are there already, such as"
            f" {found.again[0]!r}: each file counts once"
        )
    if found.unreadable:
        listed = _listed(dict(sorted(found.unreadable.items())))
        if not skip_unreadable:
            raise ValueError(
                f"folders in '{path}' cannot be read: {listed}: allow it{or_skip}"
            )
        notes.append(f"folders that cannot be read were skipped: {listed}")
    return notes + ([files.note] if files.note else [])


def _depth(
    path: Path, headers: dict[str, Header], bit_depth: int | None, needed: bool
) -> int:
    """How many of 16 bits the files use.

    Raises:
        ValueError: If that is not clear, or needed by no file, but must be.
    """
    deep = [name for name, header in headers.items() if header.deep]
    if bit_depth is not None:
        if needed and not deep and bit_depth < 16:
            raise ValueError(
                f"bit_depth is {bit_depth}, but no image file in '{path}' has more"
                " than 8 bits: leave it out"
            )
        return bit_depth
    # Colours say less, and only where there is nothing else.
    exact = [name for name in deep if not headers[name].cut]
    largest = -1
    for result in parallel(lambda name: largest_value(path / name), exact or deep):
        # What cannot be read is named later.
        if isinstance(result, int):
            largest = max(largest, result)
        if largest >= 2 ** _FEW_BITS[-1]:
            break
    if not 0 <= largest < 2 ** _FEW_BITS[-1]:
        return 16
    bits = next(bits for bits in _FEW_BITS if largest < 2**bits)
    number = len(exact or deep)
    noun = "file" if number == 1 else "files"
    found = (
        f"no value of the {number:,} image {noun} of 16 bits in '{path}' is above"
        f" {largest:,}, as if {bits} bits were used"
    )
    keep = "--bit-depth 16 (bit_depth=16) to make 65,535 white"
    if not exact:
        raise ValueError(
            f"{found}, and of images in colour only the upper 8 of 16 can be read:"
            f" convert the files to 8 bits, or pass {keep}"
        )
    raise ValueError(
        f"{found}: pass --bit-depth {bits} (bit_depth={bits}) to make"
        f" {2**bits - 1:,} white, or {keep}"
    )


def own_info(info: DatasetInfo, shape: tuple[int, int, int]) -> DatasetInfo:
    """The facts of a data set of one's own, now that the shape is known."""
    logit_lambda = 0.05 if shape[-1] == 3 else 1e-6
    return dataclasses.replace(info, image_shape=shape, logit_lambda=logit_lambda)


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


def _shape(
    headers: list[Header], image_size: int | None, channels: int | None, needed: bool
) -> tuple[tuple[int, int, int], str]:
    """The shape of all images, and what to tell about it.

    Raises:
        ValueError: If images are too small, or colours are asked for, which must be
            needed, and there are none.
    """
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
    if channels == 3 and all_grey and needed:
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
