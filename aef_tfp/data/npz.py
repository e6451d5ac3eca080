"""A NumPy file of images as a data set."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp.data.folder import own_info
from aef_tfp.data.image_files import problem
from aef_tfp.data.npz_names import NAMES, ArrayNames, split_names
from aef_tfp.data.registry import DatasetInfo
from aef_tfp.data.splits import SPLITS, Split, Splits, drawn_sizes, sizes_note
from aef_tfp.data.storage import Facts, decode_once, file_state

__all__ = ["image_file", "load_npz"]

# Images that are read at once.
_CHUNK = 1024

# What zipfile, zlib and NumPy raise of bytes that are not as they wrote them; the last
# but one of a member without .npy, the last of encrypted and other foreign members.
_BAD_FILE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
)


def load_npz(
    info: DatasetInfo,
    path: str | os.PathLike[str],
    *,
    image_size: int | None,
    channels: int | None,
    seed: int,
    memory_limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
    whole: bool = False,
) -> Splits:
    """Reads a NumPy file of images; see `load_splits` and `load_whole`."""
    file = image_file(path)
    try:
        # The array of an .npy file is not read, only to be refused.
        archive = np.load(file, allow_pickle=False, mmap_mode="r")
    except (OSError, *_BAD_FILE) as error:
        raise ValueError(
            f"'{file}' is no NumPy file of several arrays ({problem(error)}): write it"
            " with"
            " np.savez or np.savez_compressed"
        ) from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(
            f"'{file}' holds a single array without a name: write it with"
            " np.savez(FILE, images=images)"
        )
    with archive:
        names = split_names(archive.files, file, whole)
        notes = _notes_of_others(archive, names.others, file)
        headers = {name: _header(archive, name, file) for name in names.images.values()}
        shape = _common_shape(headers, file)
        _check_asked(file, shape, image_size, channels)
        given = {split: headers[name][0][0] for split, name in names.images.items()}
        labels, unused = _all_labels(archive, names, given, file)
        titles = {split: _title(n, file) for split, n in names.images.items()}
        if list(names.images) == ["train"]:
            titles = {"train": f"'{file}'"}
        sizes = drawn_sizes(given, titles, whole)
        rows = _rows(given, sizes, seed)
        notes = [sizes_note(sizes, given, seed, f"in {str(file)!r}"), *unused, *notes]
        parts = []
        for split in SPLITS:
            source, chosen = rows[split]
            name = names.images[source]

            def fill(
                out: np.ndarray,
                name: str = name,
                source: str = source,
                chosen: np.ndarray = chosen,
            ) -> tuple[int, np.ndarray | None, Facts]:
                with _named(name, file):
                    _copy_rows(archive, name, chosen, out)
                own_labels = labels[source]
                return len(out), None if own_labels is None else own_labels[chosen], {}

            decoded = decode_once(
                f"{info.name}-{split}",
                (len(chosen), *shape),
                fill,
                key=[str(file.resolve()), *file_state(file), seed],
                memory_limit=memory_limit,
                cache_dir=cache_dir,
            )
            parts.append(Split(decoded.images, decoded.labels))
            if decoded.note:
                notes.append(decoded.note)
    train, validation, test = parts
    return Splits(train, validation, test, own_info(info, shape), tuple(notes))


def _title(name: str, file: Path) -> str:
    return f"array {name!r} of '{file}'"


def image_file(place: str | os.PathLike[str]) -> Path:
    """Returns the file that is meant.

    Raises:
        FileNotFoundError: If there is none, or more than one.
    """
    path = Path(os.path.expanduser(os.fspath(place)))
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no file '{path}': pass your .npz file with --data-dir"
            " (data_dir=...)"
        )
    files = [
        file
        for file in sorted(path.iterdir())
        if file.name.lower().endswith(".npz")
        and not file.name.startswith(".")
        and file.is_file()
    ]
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise FileNotFoundError(
            f"'{path}' holds {len(files)} .npz files ({names}), not exactly one: pass"
            " the file itself with --data-dir (data_dir=...)"
        )
    return files[0]


def _notes_of_others(archive: Any, others: list[str], file: Path) -> list[str]:
    """Says which arrays are left out.

    Raises:
        ValueError: If one of them could be images.
    """
    members = archive.zip.namelist()
    for name in others:
        if f"{name}.npy" not in members:
            continue
        with _named(name, file), _member(archive, name) as (_, header):
            shape = header[0]
        if len(shape) >= 3:
            listed = ", ".join(sorted(archive.files))
            raise ValueError(
                f"'{file}' has the arrays {listed}, and it is not clear what {name!r}"
                f" of shape {shape} is for; names are {NAMES}: rename or remove it"
            )
    if not others:
        return []
    noun = "array" if len(others) == 1 else "arrays"
    return [f"left out {noun} {', '.join(others)}: neither images nor their labels"]


@contextlib.contextmanager
def _named(name: str, file: Path) -> Iterator[None]:
    """Adds to an error of reading which array of which file it was."""
    try:
        yield
    except _BAD_FILE as error:
        # A KeyError's text is its argument in quotes.
        reason = error.args[0] if isinstance(error, KeyError) else problem(error)
        raise ValueError(
            f"array {name!r} of '{file}' cannot be read ({reason}): write the file"
            " again with np.savez or np.savez_compressed"
        ) from error


@contextlib.contextmanager
def _member(archive: Any, name: str) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """One array of the file: a stream at its first byte, and its header."""
    with archive.zip.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        yield stream, read(stream)


def _header(archive: Any, name: str, file: Path) -> tuple[tuple[int, ...], bool]:
    """The shape of an array and whether it is stored by columns."""
    with _named(name, file), _member(archive, name) as (_, header):
        shape, by_columns, dtype = header
    if dtype != np.uint8:
        advice = "of floats in [0, 1] save np.round(255 * images).astype('uint8')"
        if dtype.kind in "iu":
            advice = (
                "save images.astype('uint8') if they are, or else scale them, of 12"
                " bits by np.round(images * (255 / 4095)).astype('uint8')"
            )
        elif dtype.kind == "b":
            advice = "save images.astype('uint8'), and pass --num-levels 2"
        elif dtype.kind != "f":
            # Objects are what NumPy makes of a list of images of several sizes.
            advice = "bring the images to one size, and save np.stack(list_of_images)"
        raise ValueError(
            f"array {name!r} of '{file}' is {dtype}; images must be uint8, 0 to"
            f" 255: {advice}"
        )
    if shape[:1] == (0,):
        raise ValueError(
            f"array {name!r} of '{file}' holds no images: its shape is {shape}; check"
            " what was saved"
        )
    if len(shape) not in (3, 4) or 0 in shape or shape[3:] not in ((), (1,), (3,)):
        raise ValueError(
            f"array {name!r} of '{file}' has shape {shape}; images must be"
            " [n, H, W], [n, H, W, 1] or [n, H, W, 3]: reshape or transpose it"
        )
    return shape, by_columns


def _common_shape(
    headers: dict[str, tuple[tuple[int, ...], bool]], file: Path
) -> tuple[int, int, int]:
    shapes = {name: (*shape[1:], 1)[:3] for name, (shape, _) in headers.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"the images in '{file}' differ in shape ({listed}): make them equal"
        )
    height, width, channels = next(iter(shapes.values()))
    return height, width, channels


def _check_asked(
    file: Path,
    shape: tuple[int, int, int],
    image_size: int | None,
    channels: int | None,
) -> None:
    if image_size is not None and shape[:2] != (image_size, image_size):
        raise ValueError(
            f"image_size is {image_size}, but '{file}' has images of {shape[0]} x"
            f" {shape[1]}, which are taken as they are: leave it out, or resize the"
            " images before you save them"
        )
    if channels is not None and shape[2] != channels:
        raise ValueError(
            f"channels is {channels}, but the images in '{file}' have {shape[2]}, and"
            " are taken as they are: leave it out, or convert the images before you"
            " save them"
        )


def _all_labels(
    archive: Any, names: ArrayNames, given: dict[str, int], file: Path
) -> tuple[dict[str, np.ndarray | None], list[str]]:
    """The labels of every split that has images, and what to say of unused ones."""
    labels: dict[str, np.ndarray | None] = dict.fromkeys(given)
    notes = []
    for split, name in names.labels.items():
        # The header first: objects are never read.
        with _named(name, file), _member(archive, name) as (_, header):
            shape, _, dtype = header
        if shape[:1] != (given[split],):
            raise ValueError(
                f"array {name!r} of '{file}' has shape {shape}; labels must be"
                f" {given[split]}, one for each image of {names.images[split]!r}:"
                " correct or remove them"
            )
        # Keras and MedMNIST have them as a column.
        if shape[1:] in ((), (1,)) and dtype.kind in "iub":
            with _named(name, file):
                labels[split] = archive[name].reshape(-1).astype(np.int64)
        else:
            notes.append(
                f"left out the labels {name!r}: they are {dtype} of shape {shape}, not"
                " one integer per image"
            )
    return labels, notes


def _rows(
    given: dict[str, int], sizes: dict[str, int], seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """For every split the one it is read from and the rows, in order."""
    rows = {split: (split, np.arange(number)) for split, number in given.items()}
    if len(given) < len(SPLITS):
        drawn = [split for split in SPLITS if split not in given]
        # Of these two one was drawn before test images could be, too.
        parts = ["validation", "train"] if "test" in given else ["train", *drawn]
        order = np.random.default_rng(seed).permutation(given["train"])
        ends = np.cumsum([sizes[split] for split in parts])[:-1]
        for split, chosen in zip(parts, np.split(order, ends), strict=True):
            rows[split] = ("train", chosen)
    return rows


def _copy_rows(archive: Any, name: str, rows: np.ndarray, out: np.ndarray) -> None:
    """Writes some images of an array in a given order, without reading it whole."""
    with _member(archive, name) as (stream, (shape, by_columns, _)):
        if by_columns:
            # Its images are not contiguous.
            out[...] = archive[name][rows].reshape(out.shape)
            return
        place = np.full(shape[0], -1)
        place[rows] = np.arange(len(rows))
        for start in range(0, shape[0], _CHUNK):
            number = min(_CHUNK, shape[0] - start)
            size = number * int(np.prod(out.shape[1:]))
            buffer = stream.read(size)
            if len(buffer) != size:
                raise EOFError("it ends after fewer images than it says")
            chunk = np.frombuffer(buffer, np.uint8).reshape(number, *out.shape[1:])
            wanted = place[start : start + number]
            kept = wanted >= 0
            out[wanted[kept]] = chunk[kept]
